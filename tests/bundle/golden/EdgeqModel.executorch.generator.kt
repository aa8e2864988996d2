// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import android.content.Context
import java.io.File
import kotlin.math.abs
import org.json.JSONArray
import org.json.JSONObject
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor
import org.pytorch.executorch.extension.llm.LlmCallback
import org.pytorch.executorch.extension.llm.LlmModule

/**
 * The language model: text in, text out. Not thread safe; load and run it off the main thread.
 *
 *     EdgeqModel.open(context).use { model -> val answer = model.generate("Once upon a time", maxNewTokens = 64) }
 */
class EdgeqModel private constructor(private val directory: File) : AutoCloseable {

    /** Loaded at the first prompt: a smoke test needs no tokenizer. Its files are mapped, not read. */
    private val runner = lazy { LlmModule(File(directory, MODEL).path, File(directory, TOKENIZER).path, 0f) }

    /** The most likely continuation of [prompt]. [onText] sees each new piece of text and returns false to stop. */
    fun generate(prompt: String, maxNewTokens: Int, onText: (String) -> Boolean = { true }): String {
        require(maxNewTokens > 0) { "nothing to generate" }
        val module = runner.value
        val answer = StringBuilder()
        var produced = 0
        var failure: String? = null
        val callback = object : LlmCallback {
            override fun onResult(result: String) {
                // The runner also hands over the text of the token that ends the answer.
                if (produced == maxNewTokens || result in END_TEXTS) return
                produced += 1
                answer.append(result)
                if (!onText(result) || produced == maxNewTokens) module.stop()
            }

            override fun onError(errorCode: Int, message: String) {
                failure = "ExecuTorch error $errorCode: $message"
            }
        }
        module.resetContext()
        // The length counts prompt and answer; nothing is echoed, temperature 0 takes the most likely token.
        module.generate(prompt, CONTEXT_LENGTH, callback, false, 0f, BEGIN_COUNT, 0)
        failure?.let { throw IllegalStateException(it) }
        return answer.toString()
    }

    /** Compare this device with golden/golden.json. Empty: it computes what the model should. */
    fun smokeTest(): List<String> {
        val golden = JSONObject(File(directory, "golden/golden.json").readText())
        val tolerance = golden.getDouble("tolerance")
        val cases = golden.getJSONArray("cases")
        val complaints = ArrayList<String>()
        if (cases.length() == 0) complaints.add("there is nothing to compare with: it was exported without validation")
        val module = Module.load(File(directory, MODEL).path, Module.LOAD_MODE_MMAP, THREADS)
        try {
            for (index in 0 until cases.length()) {
                val case = cases.getJSONObject(index)
                val ids = integers(case.getJSONArray("input_ids"))
                val top = integers(case.getJSONArray("top_ids")).map { it.toInt() }
                val expected = case.getJSONArray("top_logits")
                val logits = lastLogits(module, ids)
                val best = logits.indices.maxByOrNull { logits[it] }
                if (best == null || best !in top) complaints.add("case $index: token $best is not among the best")
                for ((position, token) in top.withIndex()) {
                    val difference = abs(logits[token] - expected.getDouble(position))
                    // Written so that NaN complains too.
                    if (!(difference <= tolerance)) complaints.add("case $index: logit of $token is off by $difference")
                }
            }
        } finally {
            module.destroy()
        }
        return complaints
    }

    override fun close() {
        if (runner.isInitialized()) runner.value.close()
    }

    private fun integers(array: JSONArray) = LongArray(array.length()) { array.getLong(it) }

    /** Logits after the last of [ids], which start a new text: the cache is overwritten from its beginning. */
    private fun lastLogits(module: Module, ids: LongArray): FloatArray {
        val length = ids.size.toLong()
        val tokens = Tensor.fromBlob(ids, longArrayOf(1, length))
        val positions = Tensor.fromBlob(LongArray(ids.size) { it.toLong() }, longArrayOf(length))
        val logits = module.forward(EValue.from(tokens), EValue.from(positions))[0].toTensor().dataAsFloatArray
        return logits.copyOfRange(logits.size - VOCABULARY, logits.size)
    }

    companion object {
        const val CONTEXT_LENGTH = 64
        const val VOCABULARY = 8
        private const val MODEL = "model/model.pte"
        private const val TOKENIZER = "tokenizer/tokenizer.json"
        private const val THREADS = 2

        /** Begin-of-text tokens before a prompt; the runner adds none by itself. */
        private const val BEGIN_COUNT = 0
        private val END_TEXTS = setOf("</s>")

        /** Check the memory and put the files in place. */
        fun open(context: Context): EdgeqModel {
            EdgeqBundle.checkMemory(context)
            return EdgeqModel(EdgeqBundle.install(context))
        }
    }
}
