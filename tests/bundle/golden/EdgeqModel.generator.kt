// Written by edgeq for this bundle. Change the package to your own.
package edgeq

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import java.io.File
import java.nio.FloatBuffer
import java.nio.LongBuffer
import kotlin.math.abs
import org.json.JSONObject

/**
 * The language model: token ids in, token ids out. Not thread safe; load and run it off the main thread.
 *
 *     EdgeqModel.open(context).use { model -> val answer = model.generate(promptIds, maxNewTokens = 64) }
 */
class EdgeqModel private constructor(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val directory: File,
) : AutoCloseable {

    /** The most likely continuation of [prompt]. [onToken] sees each new token and returns false to stop. */
    fun generate(prompt: LongArray, maxNewTokens: Int, onToken: (Long) -> Boolean = { true }): LongArray {
        require(prompt.isNotEmpty()) { "the prompt is empty" }
        require(prompt.size + maxNewTokens <= CONTEXT_LENGTH) { "longer than $CONTEXT_LENGTH tokens" }
        val produced = ArrayList<Long>()
        var input = prompt
        var total = 0
        var cache: OrtSession.Result? = null
        try {
            while (produced.size < maxNewTokens) {
                total += input.size
                val result = step(input, total, cache)
                // The old cache is read by the run above, so it is closed only now.
                cache?.close()
                cache = result
                val token = best(lastLogits(result)).toLong()
                if (token in END_OF_TEXT) break
                produced.add(token)
                if (!onToken(token)) break
                input = longArrayOf(token)
            }
        } finally {
            cache?.close()
        }
        return produced.toLongArray()
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
            val top = case.getJSONArray("top_ids").let { array -> IntArray(array.length()) { array.getInt(it) } }
            val expected = case.getJSONArray("top_logits")
            val logits = step(ids, ids.size, null).use { lastLogits(it) }
            if (best(logits) !in top) complaints.add("case $index: token ${best(logits)} is not among the best")
            for ((position, token) in top.withIndex()) {
                val difference = abs(logits[token] - expected.getDouble(position))
                // Written so that NaN complains too.
                if (!(difference <= tolerance)) complaints.add("case $index: logit of $token is off by $difference")
            }
        }
        return complaints
    }

    override fun close() = session.close()

    /** Run [ids] after those in [cache]; [total] counts both. The result is the new cache: the caller closes it. */
    private fun step(ids: LongArray, total: Int, cache: OrtSession.Result?): OrtSession.Result {
        val inputs = HashMap<String, OnnxTensor>()
        val own = ArrayList<OnnxTensor>()
        try {
            for ((name, values, shape) in listOf(
                Triple("input_ids", ids, longArrayOf(1, ids.size.toLong())),
                Triple("attention_mask", LongArray(total) { 1 }, longArrayOf(1, total.toLong())),
                Triple("num_logits_to_keep", longArrayOf(1), longArrayOf()),
            )) {
                if (name !in session.inputNames) continue
                val tensor = OnnxTensor.createTensor(environment, LongBuffer.wrap(values), shape)
                own.add(tensor)
                inputs[name] = tensor
            }
            for ((layer, shape) in CACHE.withIndex()) for (part in listOf("key", "value")) {
                val past = "past_key_values.$layer.$part"
                if (cache != null) {
                    inputs[past] = cache.get("present.$layer.$part").get() as OnnxTensor
                } else {
                    val empty = longArrayOf(1, shape[0], 0, shape[1])
                    val tensor = OnnxTensor.createTensor(environment, FloatBuffer.allocate(0), empty)
                    own.add(tensor)
                    inputs[past] = tensor
                }
            }
            return session.run(inputs)
        } finally {
            own.forEach { it.close() }
        }
    }

    private fun lastLogits(result: OrtSession.Result): FloatArray {
        val logits = (result.get("logits").get() as OnnxTensor).floatBuffer
        logits.position(logits.limit() - VOCABULARY)
        return FloatArray(VOCABULARY).also { logits.get(it) }
    }

    private fun best(logits: FloatArray): Int {
        var best = 0
        for (token in logits.indices) if (logits[token] > logits[best]) best = token
        return best
    }

    companion object {
        const val CONTEXT_LENGTH = 64
        const val VOCABULARY = 8
        private const val MODEL = "model/model.onnx"
        private const val THREADS = 2
        private val END_OF_TEXT = setOf(1L)

        /** Key-value heads and head size of each layer. */
        private val CACHE = listOf(
            longArrayOf(2, 4)
        )

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
