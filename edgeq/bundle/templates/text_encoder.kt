// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.extensions.OrtxPackage
import android.content.Context
import java.io.File
import org.json.JSONObject

/**
 * The encoder with its tokenizer inside: strings in, a vector for each out. Not thread safe; load and run it off the
 * main thread. It has the same weights as [EdgeqModel], in the same file: an app needs only one of the two.
 *
 *     EdgeqText.open(context).use { text -> val (cat, kitten) = text.encode(listOf("A cat.", "A kitten.")) }
 */
class EdgeqText private constructor(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val directory: File,
) : AutoCloseable {

    /** One vector per string; long ones are cut at the context length. A model that does not pool gives all tokens'. */
    fun encode(texts: List<String>): List<FloatArray> {
        require(texts.isNotEmpty()) { "there is no text" }
        return run(texts) { result ->
            val output = (result.get(OUTPUT).get() as OnnxTensor).floatBuffer
            val size = output.remaining() / texts.size
            List(texts.size) { FloatArray(size).also { row -> output.get(row) } }
        }
    }

    /** Compare this device with golden/texts.json. Empty: it reads texts as the model's own tokenizer does. */
    fun smokeTest(): List<String> {
        val cases = JSONObject(File(directory, "golden/texts.json").readText()).getJSONArray("cases")
        return (0 until cases.length()).mapNotNull { index ->
            val case = cases.getJSONObject(index)
            val expected = case.getJSONArray("input_ids").let { ids -> List(ids.length()) { ids.getLong(it) } }
            val found = run(listOf(case.getString("text"))) { result ->
                val ids = (result.get("input_ids").get() as OnnxTensor).longBuffer
                List(ids.remaining()) { ids.get() }
            }
            if (found == expected) null else "text $index: $found instead of $expected"
        }
    }

    override fun close() = session.close()

    private fun <T> run(texts: List<String>, read: (OrtSession.Result) -> T): T {
        val shape = longArrayOf(texts.size.toLong())
        return OnnxTensor.createTensor(environment, texts.toTypedArray(), shape).use { input ->
            session.run(mapOf("text" to input)).use(read)
        }
    }

    companion object {
        private const val MODEL = "@MODEL@"
        private const val OUTPUT = "@OUTPUT@"
        private const val THREADS = @THREADS@

        /** Check the memory, put the files in place and load the model. */
        fun open(context: Context): EdgeqText {
            EdgeqBundle.checkMemory(context)
            val directory = EdgeqBundle.install(context)
            val environment = OrtEnvironment.getEnvironment()
            val session = OrtSession.SessionOptions().use { options ->
                options.registerCustomOpLibrary(OrtxPackage.getLibraryPath())
                options.setIntraOpNumThreads(minOf(THREADS, Runtime.getRuntime().availableProcessors()))
                options.setMemoryPatternOptimization(false)
                options.addConfigEntry("session.use_device_allocator_for_initializers", "1")
                environment.createSession(File(directory, MODEL).path, options)
            }
            return EdgeqText(environment, session, directory)
        }
    }
}
