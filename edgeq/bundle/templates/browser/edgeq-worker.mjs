/**
 * The worker that edgeq.mjs starts: fetches a bundle's files, checks them, and runs the model in transformers.js.
 */

import { BundleError, fail, fetchAll, openStore, readManifest, tidy } from "./edgeq-files.mjs";

const TRANSFORMERS = "vendor/transformers.min.js";
const RUNTIME = "vendor/ort-wasm-simd-threaded.asyncify";
// What transformers.js reads of a model besides its ONNX files; not every model has all of them.
const CONFIGURATION = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
const MODEL_ID = "bundle";
const MODELS = "/edgeq/";
// Shorter prompts' tails than this are all that a tokenizer needs to see of a word's left side.
const TAIL = 8;

let loaded = null;
let writing = null;

const METHODS = { load, generate, embed, check, stop: async () => writing?.interrupt() };

self.onmessage = async ({ data: { id, method, argument } }) => {
  try {
    self.postMessage({ id, result: await METHODS[method](argument, (event) => self.postMessage({ id, event })) });
  } catch (error) {
    self.postMessage({ id, error: { message: readable(error), cause: String(error?.message ?? error) } });
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// The model

async function load({ url, device, dtype, threads, keep }, report) {
  const base = new URL(url);
  const manifest = await readManifest(base);
  const chosen = await choose(manifest, device, dtype);
  const store = await openStore(keep);
  const files = await fetchAll(base, manifest, neededFiles(manifest, chosen.variant), store, report);
  await tidy(store, base, manifest).catch(() => {}); // only space is lost
  report({ stage: "starting" });
  const count = threads ?? Math.min(manifest.runtime.threads, self.navigator.hardwareConcurrency ?? 1);
  const usable = self.crossOriginIsolated ? count : 1;
  const transformers = await setUp(base, files, usable);
  const options = { device: chosen.device, dtype: chosen.variant.dtype };
  const hasTokenizer = manifest.tokenizer !== null;
  const tokenizer = hasTokenizer ? await transformers.AutoTokenizer.from_pretrained(MODEL_ID) : null;
  const AutoClass = isGenerator(manifest) ? transformers.AutoModelForCausalLM : transformers.AutoModel;
  const model = await AutoClass.from_pretrained(MODEL_ID, options);
  transformers.env.backends.onnx.wasm.wasmBinary = undefined; // compiled by now
  files.clear();
  breathe(model);
  loaded = { base, manifest, transformers, tokenizer, model };
  const hasChat = isGenerator(manifest) && Boolean(tokenizer?.chat_template);
  const { dtype: name } = chosen.variant;
  return { manifest, device: chosen.device, dtype: name, threads: chosen.device === "wasm" ? usable : 1, hasChat };
}

function neededFiles(manifest, variant) {
  const paths = manifest.files.map((entry) => entry.path);
  return paths.filter(
    (path) =>
      CONFIGURATION.includes(path) ||
      path === variant.entry ||
      path.startsWith(`${variant.entry}_data`) ||
      path === TRANSFORMERS ||
      path.startsWith(`${RUNTIME}.`),
  );
}

/** The device and the variant to run, as asked for; where "auto" was, as this browser and the bundle allow. */
async function choose(manifest, device, dtype) {
  const named = manifest.variants.filter((variant) => dtype === "auto" || variant.dtype === dtype);
  if (!named.length) {
    throw new BundleError(`There is no ${dtype} here: ${manifest.variants.map((one) => one.dtype).join(", ")}.`);
  }
  const half = named.find((variant) => variant.float_dtype === "float16");
  const full = named.find((variant) => variant.float_dtype !== "float16");
  const onCpu = { device: "wasm", variant: full ?? half };
  const isMeant = manifest.profile.execution_providers.includes("webgpu");
  if (device === "wasm" || (device === "auto" && !isMeant)) return onCpu;
  const adapter = await self.navigator.gpu?.requestAdapter();
  const variant = adapter?.features.has("shader-f16") ? (half ?? full) : full;
  if (device === "webgpu") {
    if (!adapter) fail("This browser has no WebGPU, or no GPU for it. Choose WASM.");
    if (!variant) fail(`This GPU does not compute in float16, as ${half.dtype} does. Choose another variant, or WASM.`);
    return { device, variant };
  }
  // A fallback adapter computes on the CPU, which WASM does better.
  const isGpu = adapter && !(adapter.info ?? adapter).isFallbackAdapter;
  return isGpu && variant ? { device: "webgpu", variant } : onCpu;
}

/** transformers.js, which gets nothing but checked files. */
async function setUp(base, files, threads) {
  const transformers = await import(module(files, TRANSFORMERS));
  const { env } = transformers;
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = MODELS;
  env.useBrowserCache = false;
  env.useWasmCache = false;
  env.useCustomCache = true;
  env.customCache = { match: async (name) => handOver(files, name), put: async () => {} };
  env.fetch = async () => new Response(null, { status: 404 });
  const { wasm } = env.backends.onnx;
  wasm.wasmPaths = { mjs: module(files, `${RUNTIME}.mjs`), wasm: new URL(`${RUNTIME}.wasm`, base).href };
  wasm.wasmBinary = files.get(`${RUNTIME}.wasm`);
  wasm.numThreads = threads;
  return transformers;
}

/** An address to import a checked file from. */
function module(files, path) {
  return URL.createObjectURL(new Blob([files.get(path)], { type: "text/javascript" }));
}

/** A file as transformers.js takes it from a cache. Weights are given away, so that they are in memory once. */
function handOver(files, name) {
  const path = name.startsWith(`${MODELS}${MODEL_ID}/`) ? name.slice(MODELS.length + MODEL_ID.length + 1) : null;
  const bytes = files.get(path);
  if (!bytes) return undefined;
  if (path.startsWith("onnx/")) files.delete(path);
  const headers = new Headers({ "content-length": String(bytes.length) });
  return { status: 200, ok: true, headers, arrayBuffer: async () => bytes.buffer };
}

/** Let the worker hear of a stop before each token: what transformers.js awaits alone never ends its turn. */
function breathe(model) {
  const forward = model.forward.bind(model);
  const { port1, port2 } = new MessageChannel();
  model.forward = async (inputs) => {
    await new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
    return await forward(inputs);
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// What it does

async function generate({ prompt, maxNewTokens, temperature, topP }, report) {
  const { manifest, transformers, model } = opened("text-generation");
  if (writing) fail("It is writing already: stop that first.");
  const inputs = encode(prompt);
  const promptTokens = inputs.input_ids.dims.at(-1);
  const context = manifest.interface.context_length;
  const room = context - promptTokens;
  if (room < 1) fail(`The prompt has ${promptTokens} tokens, the model's context ${context}.`);
  writing = new transformers.InterruptableStoppingCriteria();
  const times = [performance.now()];
  let text = "";
  const ends = manifest.interface.end_of_text_ids;
  const streamer = continuation(transformers, ends, {
    onText: (piece) => report(((text += piece), piece)),
    onToken: () => times.push(performance.now()),
  });
  try {
    await model.generate({
      ...inputs,
      max_new_tokens: Math.min(maxNewTokens, room),
      do_sample: temperature > 0,
      ...(temperature > 0 ? { temperature, top_p: topP } : {}),
      ...(ends.length ? { eos_token_id: ends } : {}),
      streamer,
      stopping_criteria: writing,
    });
    return { text, promptTokens, stopped: writing.interrupted, ...speed(times) };
  } finally {
    writing = null;
  }
}

function speed(times) {
  const tokens = times.length - 1;
  const seconds = (from, to) => (times[to] - times[from]) / 1000;
  return {
    tokens,
    seconds: seconds(0, tokens),
    firstTokenSeconds: tokens ? seconds(0, 1) : null,
    tokensPerSecond: tokens > 1 ? (tokens - 1) / seconds(1, tokens) : null,
  };
}

function encode(prompt) {
  const { tokenizer } = loaded;
  if (typeof prompt !== "string") {
    if (!tokenizer.chat_template) fail("This model answers no messages: give it a text to continue.");
    return tokenizer.apply_chat_template(prompt, { add_generation_prompt: true, return_dict: true });
  }
  const inputs = prompt ? tokenizer(prompt) : null;
  if (!inputs?.input_ids.dims.at(-1)) fail("Give it a few words to begin with.");
  return inputs;
}

/**
 * A TextStreamer that keeps the end of the text to itself, and knows the prompt's last words: many tokenizers drop the
 * space before a text's first word.
 */
function continuation(transformers, ends, { onText, onToken }) {
  class Continuation extends transformers.TextStreamer {
    put(value) {
      if (!this.next_tokens_are_prompt) {
        if (!ends.includes(Number(value[0].at(-1)))) super.put(value);
        return;
      }
      this.next_tokens_are_prompt = false;
      this.token_cache = value[0].slice(-TAIL);
      this.print_len = this.tokenizer.decode(this.token_cache, this.decode_kwargs).length;
    }
  }
  return new Continuation(loaded.tokenizer, { callback_function: onText, token_callback_function: onToken });
}

async function embed({ texts }) {
  const { manifest, tokenizer } = opened("feature-extraction");
  const vectors = [];
  for (const text of texts) {
    // One by one, as edgeq validated it: no padding.
    vectors.push(await vector(tokenizer(text, { truncation: true, max_length: manifest.interface.context_length })));
  }
  return vectors;
}

/** The sentence embedding; the first token's hidden state of a model that does not pool. */
async function vector(inputs) {
  const { manifest, model } = loaded;
  const output = (await model(inputs))[manifest.interface.outputs[0]].to("float32");
  return Float32Array.from(output.data.subarray(0, output.dims.at(-1)));
}

async function check() {
  const { base, manifest, model } = opened();
  const files = await fetchAll(base, manifest, [manifest.golden], null, () => {});
  const golden = JSON.parse(new TextDecoder().decode(files.get(manifest.golden)));
  const complaints = [];
  for (const [number, example] of golden.cases.entries()) {
    const inputs = tensors(example.input_ids);
    let off;
    if (example.embedding) {
      off = 1 - cosine(await vector(inputs), example.embedding);
    } else {
      const logits = (await model(inputs)).logits.slice(null, -1, null).to("float32").data;
      off = Math.max(...example.top_ids.map((id, index) => Math.abs(logits[id] - example.top_logits[index])));
      const best = logits.reduce((most, value, id) => (value > logits[most] ? id : most), 0);
      if (!example.top_ids.includes(best)) complaints.push(`Case ${number}: token ${best} is none of the likeliest.`);
    }
    if (!(off <= golden.tolerance)) {
      complaints.push(`Case ${number}: off by ${off.toPrecision(3)}, ${golden.tolerance.toPrecision(3)} allowed.`);
    }
  }
  return { cases: golden.cases.length, complaints };
}

function tensors(ids) {
  const { Tensor } = loaded.transformers;
  const row = (values) => new Tensor("int64", BigInt64Array.from(values), [1, ids.length]);
  const fill = (value) => row(ids.map(() => value));
  return { input_ids: row(ids.map(BigInt)), attention_mask: fill(1n), token_type_ids: fill(0n) };
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, index) => sum + value * y[index], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

function isGenerator(manifest) {
  return manifest.interface.task === "text-generation";
}

function opened(task = null) {
  if (!loaded) fail("No bundle is loaded.");
  if (task && loaded.manifest.interface.task !== task) fail(`This model is for ${loaded.manifest.interface.task}.`);
  if (task && !loaded.tokenizer) fail("This model came without a tokenizer.json, so there is no text in or out.");
  return loaded;
}

function readable(error) {
  if (error instanceof BundleError) return error.message;
  const said = String(error?.message ?? error);
  // ONNX Runtime throws bare numbers where WebAssembly could not even make a message.
  if (typeof error === "number" || error instanceof RangeError || /memory|alloc|aborted\(/i.test(said)) {
    return `There is not enough memory for this model here. Close other tabs, or choose another variant. (${said})`;
  }
  return `The model does not run here: ${said}`;
}
