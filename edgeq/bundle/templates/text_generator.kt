// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.extensions.OrtxPackage
import android.content.Context
import java.io.File
import java.nio.LongBuffer
import org.json.JSONObject

/**
 * Text to token ids and back, in two small graphs beside the model. Not thread safe; use it off the main thread.
 *
 *     EdgeqText.open(context).use { text -> val answer = text.generate(model, "Once upon a time", maxNewTokens = 64) }
 */
class EdgeqText private constructor(
    private val environment: OrtEnvironment,
    private val tokenizer: OrtSession,
    private val detokenizer: OrtSession,
    private val directory: File,
) : AutoCloseable {

    /** The most likely continuation of [prompt], as [EdgeqModel.generate] gives it in ids. */
    fun generate(model: EdgeqModel, prompt: String, maxNewTokens: Int): String {
        val ids = encode(prompt)
        val produced = model.generate(ids, maxNewTokens)
        // The prompt is written too, so that the space before the first new word is not lost.
        return decode(ids + produced).removePrefix(decode(ids))
    }

    /** The ids of a text, with the special tokens that the model expects. */
    fun encode(text: String): LongArray =
        OnnxTensor.createTensor(environment, arrayOf(text), longArrayOf(1)).use { input ->
            tokenizer.run(mapOf("text" to input)).use { result ->
                val ids = (result.get("input_ids").get() as OnnxTensor).longBuffer
                LongArray(ids.remaining()) { ids.get() }
            }
        }

    /** The text of ids, without special tokens. Where they end within a character, it ends with U+FFFD. */
    fun decode(ids: LongArray): String =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(ids), longArrayOf(ids.size.toLong())).use { input ->
            detokenizer.run(mapOf("ids" to input)).use { result ->
                @Suppress("UNCHECKED_CAST")
                (result.get("text").get().value as Array<String>)[0]
            }
        }

    /** Compare this device with golden/texts.json. Empty: it reads texts as the model's own tokenizer does. */
    fun smokeTest(): List<String> {
        val cases = JSONObject(File(directory, "golden/texts.json").readText()).getJSONArray("cases")
        return (0 until cases.length()).mapNotNull { index ->
            val case = cases.getJSONObject(index)
            val expected = case.getJSONArray("input_ids").let { ids -> List(ids.length()) { ids.getLong(it) } }
            val found = encode(case.getString("text")).toList()
            if (found == expected) null else "text $index: $found instead of $expected"
        }
    }

    override fun close() {
        tokenizer.close()
        detokenizer.close()
    }

    companion object {
        private const val TOKENIZER = "@TOKENIZER@"
        private const val DETOKENIZER = "@DETOKENIZER@"

        /** Put the files in place and load the two graphs. */
        fun open(context: Context): EdgeqText {
            val directory = EdgeqBundle.install(context)
            val environment = OrtEnvironment.getEnvironment()
            return OrtSession.SessionOptions().use { options ->
                options.registerCustomOpLibrary(OrtxPackage.getLibraryPath())
                val tokenizer = environment.createSession(File(directory, TOKENIZER).path, options)
                val detokenizer = environment.createSession(File(directory, DETOKENIZER).path, options)
                EdgeqText(environment, tokenizer, detokenizer, directory)
            }
        }
    }
}
