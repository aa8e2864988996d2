// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import java.io.File
import java.nio.FloatBuffer
import java.nio.IntBuffer
import java.nio.LongBuffer
import kotlin.math.sqrt
import org.json.JSONObject

/**
 * The module: tensors in, tensors out. Not thread safe; load and run it off the main thread.
 *
@SIGNATURE@
 *
 *     EdgeqModel.open(context).use { model ->
 *         model.run(mapOf("@INPUT@" to tensor)).use { result -> result.get("@OUTPUT@").get() as OnnxTensor }
 *     }
 */
class EdgeqModel private constructor(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val directory: File,
) : AutoCloseable {

    /** The outputs by name. Close the inputs and the result; both hold memory outside of the heap. */
    fun run(inputs: Map<String, OnnxTensor>): OrtSession.Result = session.run(inputs)

    /** Compare this device with golden/golden.json. Empty: it computes what the model should. */
    fun smokeTest(): List<String> {
        val golden = JSONObject(File(directory, "golden/golden.json").readText())
        val tolerance = golden.getDouble("tolerance")
        val cases = golden.getJSONArray("cases")
        val complaints = ArrayList<String>()
        if (cases.length() == 0) complaints.add("there is nothing to compare with: see the bundle's README")
        for (index in 0 until cases.length()) {
            val case = cases.getJSONObject(index)
            val inputs = HashMap<String, OnnxTensor>()
            try {
                val given = case.getJSONObject("inputs")
                for (name in given.keys()) inputs[name] = tensor(given.getJSONObject(name))
                run(inputs).use { result ->
                    val expected = case.getJSONObject("outputs")
                    for (name in expected.keys()) {
                        val error = relativeError(result.get(name).get() as OnnxTensor, expected.getJSONObject(name))
                        // Written so that NaN complains too.
                        if (!(error <= tolerance)) complaints.add("case $index: $name is off by $error")
                    }
                }
            } finally {
                inputs.values.forEach { it.close() }
            }
        }
        return complaints
    }

    private fun tensor(json: JSONObject): OnnxTensor {
        val values = json.getJSONArray("values").let { array -> DoubleArray(array.length()) { array.getDouble(it) } }
        val shape = json.getJSONArray("shape").let { array -> LongArray(array.length()) { array.getLong(it) } }
        return when (val type = json.getString("dtype")) {
            "float32" -> OnnxTensor.createTensor(
                environment, FloatBuffer.wrap(FloatArray(values.size) { values[it].toFloat() }), shape)
            "int64" -> OnnxTensor.createTensor(
                environment, LongBuffer.wrap(LongArray(values.size) { values[it].toLong() }), shape)
            "int32" -> OnnxTensor.createTensor(
                environment, IntBuffer.wrap(IntArray(values.size) { values[it].toInt() }), shape)
            else -> throw IllegalArgumentException("the smoke test does not make tensors of $type")
        }
    }

    private fun relativeError(answer: OnnxTensor, json: JSONObject): Double {
        val expected = json.getJSONArray("values")
        val output = answer.floatBuffer
        if (output.remaining() != expected.length()) return Double.NaN
        var difference = 0.0
        var size = 0.0
        for (index in 0 until expected.length()) {
            val wanted = expected.getDouble(index)
            val away = output.get() - wanted
            difference += away * away
            size += wanted * wanted
        }
        return if (difference == 0.0) 0.0 else sqrt(difference / size)
    }

    override fun close() = session.close()

    companion object {
        private const val MODEL = "@MODEL@"
        private const val THREADS = @THREADS@

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
