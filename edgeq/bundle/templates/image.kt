// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import java.io.File
import java.nio.FloatBuffer
import kotlin.math.@IMPORT@
import org.json.JSONObject

/**
 * A model of images: pixels in, @RESULT@ out. Not thread safe; load and run it off the main thread.
 *
 *     EdgeqModel.open(context).use { model -> val @VALUE@ = model.@VERB@(pixels) }
 */
class EdgeqModel private constructor(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val directory: File,
) : AutoCloseable {

    /**
     * @ABOUT@ [argb] are WIDTH x HEIGHT pixels, row by row, as
     * `Bitmap.getPixels` gives them of a bitmap that was scaled to this size.
     */
    fun @VERB@(argb: IntArray): FloatArray {
        require(argb.size == WIDTH * HEIGHT) { "the image is not $WIDTH x $HEIGHT" }
        val values = FloatBuffer.allocate(CHANNELS * argb.size)
        for (channel in 0 until CHANNELS) {
            for (pixel in argb) {
                val byte = (pixel shr (16 - 8 * channel)) and 0xff
                values.put((byte * SCALE - MEAN[channel]) / STD[channel])
            }
        }
        values.rewind()
        val shape = longArrayOf(1, CHANNELS.toLong(), HEIGHT.toLong(), WIDTH.toLong())
        return OnnxTensor.createTensor(environment, values, shape).use { input ->
            session.run(mapOf("pixel_values" to input)).use { result ->
                val output = (result.get(OUTPUT).get() as OnnxTensor).floatBuffer
                FloatArray(output.remaining()).also { output.get(it) }
            }
        }
    }
@LABELS@
    /** Compare this device with golden/golden.json. Empty: it computes what the model should. */
    fun smokeTest(): List<String> {
        val golden = JSONObject(File(directory, "golden/golden.json").readText())
        val tolerance = golden.getDouble("tolerance")
        val cases = golden.getJSONArray("cases")
        val complaints = ArrayList<String>()
        if (cases.length() == 0) complaints.add("there is nothing to compare with: it was exported without validation")
        for (index in 0 until cases.length()) {
            val case = cases.getJSONObject(index)
            val expected = case.getJSONArray("@FIELD@").let { array ->
                FloatArray(array.length()) { array.getDouble(it).toFloat() }
            }
            val distance = @DISTANCE@
            // Written so that NaN complains too.
            if (!(distance <= tolerance)) complaints.add("case $index: @MEASURE@ is $distance")
        }
        return complaints
    }

    /** A golden mosaic in the model's size: SQUARES x SQUARES colours in hex, row by row. */
    private fun mosaic(squares: String): IntArray = IntArray(WIDTH * HEIGHT) { pixel ->
        val row = pixel / WIDTH * SQUARES / HEIGHT
        val column = pixel % WIDTH * SQUARES / WIDTH
        val start = (row * SQUARES + column) * CHANNELS
        (0 until CHANNELS).sumOf { channel ->
            squares.substring(2 * (start + channel), 2 * (start + channel) + 2).toInt(16) shl (16 - 8 * channel)
        }
    }

    override fun close() = session.close()

    companion object {
        private const val MODEL = "@MODEL@"
        private const val OUTPUT = "@OUTPUT@"
        private const val THREADS = @THREADS@
        private const val SQUARES = 16
        private const val SCALE = @SCALE@
        private val MEAN = floatArrayOf(@MEAN@)
        private val STD = floatArrayOf(@STD@)
        private const val CHANNELS = @CHANNELS@
        const val HEIGHT = @HEIGHT@
        const val WIDTH = @WIDTH@

@HELPER@
        /** Check the memory, put the files in place and load the model. */
        fun open(context: Context): EdgeqModel {
            EdgeqBundle.checkMemory(context)
            val directory = EdgeqBundle.install(context)
            val environment = OrtEnvironment.getEnvironment()
            val session = OrtSession.SessionOptions().use { options ->
                options.setIntraOpNumThreads(minOf(THREADS, Runtime.getRuntime().availableProcessors()))
                // As it was validated: no memory plan per shape, no second copy of packed weights in the arena.
                options.setMemoryPatternOptimization(false)
                options.addConfigEntry("session.use_device_allocator_for_initializers", "1")
                // By path, not by bytes: then the weights beside it are mapped, and cost no dirty memory.
                environment.createSession(File(directory, MODEL).path, options)
            }
            return EdgeqModel(environment, session, directory)
        }
    }
}
