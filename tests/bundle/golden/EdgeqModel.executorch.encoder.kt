// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import android.content.Context
import java.io.File
import kotlin.math.sqrt
import org.json.JSONObject
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Module
import org.pytorch.executorch.Tensor

/**
 * The encoder: token ids in, a vector out. Not thread safe; load and run it off the main thread.
 *
 *     EdgeqModel.open(context).use { model -> val vector = model.encode(sentenceIds) }
 */
class EdgeqModel private constructor(private val module: Module, private val directory: File) : AutoCloseable {

    /**
     * The vector of one sentence, with the tokenizer's special tokens in [ids]. A model that does not pool gives the
     * hidden states of all tokens in a row.
     */
    fun encode(ids: LongArray): FloatArray {
        require(ids.isNotEmpty()) { "the sentence is empty" }
        require(ids.size <= CONTEXT_LENGTH) { "longer than $CONTEXT_LENGTH tokens" }
        val shape = longArrayOf(1, ids.size.toLong())
        val inputs = INPUTS.map { name ->
            val values = when (name) {
                "input_ids" -> ids
                "attention_mask" -> LongArray(ids.size) { 1 }
                else -> LongArray(ids.size) // token_type_ids
            }
            EValue.from(Tensor.fromBlob(values, shape))
        }
        return module.forward(*inputs.toTypedArray())[0].toTensor().dataAsFloatArray
    }

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
            val expected = case.getJSONArray("embedding").let { array ->
                FloatArray(array.length()) { array.getDouble(it).toFloat() }
            }
            val distance = 1 - cosine(encode(ids), expected)
            // Written so that NaN complains too.
            if (!(distance <= tolerance)) complaints.add("case $index: 1 - cosine is $distance")
        }
        return complaints
    }

    override fun close() = module.destroy()

    companion object {
        const val CONTEXT_LENGTH = 64
        private const val MODEL = "model/model.pte"
        private const val THREADS = 2
        private val INPUTS = listOf("input_ids", "attention_mask")

        /** How alike two vectors are, from -1 to 1. A longer [a] is read as far as [b] goes. */
        fun cosine(a: FloatArray, b: FloatArray): Double {
            var product = 0.0
            var lengthA = 0.0
            var lengthB = 0.0
            for (index in b.indices) {
                product += a[index].toDouble() * b[index]
                lengthA += a[index].toDouble() * a[index]
                lengthB += b[index].toDouble() * b[index]
            }
            return product / sqrt(lengthA * lengthB)
        }

        /** Check the memory, put the files in place and load the model. */
        fun open(context: Context): EdgeqModel {
            EdgeqBundle.checkMemory(context)
            val directory = EdgeqBundle.install(context)
            val threads = minOf(THREADS, Runtime.getRuntime().availableProcessors())
            // Mapped, not read: then the file costs no dirty memory, only what XNNPACK packs from it does.
            val module = Module.load(File(directory, MODEL).path, Module.LOAD_MODE_MMAP, threads)
            module.loadMethod("forward")
            return EdgeqModel(module, directory)
        }
    }
}
