// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import java.io.File
import java.nio.LongBuffer
import kotlin.math.@IMPORT@
import org.json.JSONObject

/**
 * The @NOUN@: token ids in, @RESULT@ out. Not thread safe; load and run it off the main thread.
 *
 *     EdgeqModel.open(context).use { model -> val @VALUE@ = model.@VERB@(sentenceIds) }
 */
class EdgeqModel private constructor(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val directory: File,
) : AutoCloseable {

    /**
@ABOUT@
     */
    fun @VERB@(ids: LongArray): FloatArray {
        require(ids.isNotEmpty()) { "the sentence is empty" }
        val inputs = HashMap<String, OnnxTensor>()
        try {
            for ((name, values) in listOf(
                "input_ids" to ids,
                "attention_mask" to LongArray(ids.size) { 1 },
                "token_type_ids" to LongArray(ids.size),
            )) {
                if (name !in session.inputNames) continue
                val shape = longArrayOf(1, ids.size.toLong())
                inputs[name] = OnnxTensor.createTensor(environment, LongBuffer.wrap(values), shape)
            }
            return session.run(inputs).use { result ->
                val output = (result.get(OUTPUT).get() as OnnxTensor).floatBuffer
                FloatArray(output.remaining()).also { output.get(it) }
            }
        } finally {
            inputs.values.forEach { it.close() }
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
            val ids = case.getJSONArray("input_ids").let { array -> LongArray(array.length()) { array.getLong(it) } }
            val expected = case.getJSONArray("@FIELD@").let { array ->
                FloatArray(array.length()) { array.getDouble(it).toFloat() }
            }
            val distance = @DISTANCE@
            // Written so that NaN complains too.
            if (!(distance <= tolerance)) complaints.add("case $index: @MEASURE@ is $distance")
        }
        return complaints
    }

    override fun close() = session.close()

    companion object {
        private const val MODEL = "@MODEL@"
        private const val OUTPUT = "@OUTPUT@"
        private const val THREADS = @THREADS@

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
