/**
 * Run this bundle in a page.
 *
 *   import { loadBundle, similarity } from "./edgeq.mjs";
 *   const bundle = await loadBundle();               // the bundle that this file lies in
 *   await bundle.generate("Once upon a time", { onText: (text) => console.log(text) });
 *   const [a, b] = await bundle.embed(["A cat sleeps.", "A kitten naps."]);   // where the model embeds sentences
 *   bundle.close();
 *
 * Every file is compared with edgeq.json, size and sha256, before it is used. All work is done in a worker, so that the
 * page stays responsive. What goes wrong is a BundleError with a message for people.
 */

import { BundleError, readManifest as read } from "./edgeq-files.mjs";

export { BundleError };

/**
 * The contents of a bundle's edgeq.json. `url`: the bundle's directory.
 */
export async function readManifest(url = new URL(".", import.meta.url)) {
  return await read(directory(url));
}

/**
 * Fetch a bundle, check it, start its model. Options:
 *   device      "auto" (WebGPU where the browser has it and the bundle is meant for it, else WASM), "webgpu", "wasm"
 *   dtype       "auto", or a variant of the bundle: "q4", "q4f16", ...
 *   threads     of WASM; by default what the bundle was made for, and 1 on pages without cross-origin isolation
 *   onProgress  called with { stage: "fetching", file, loaded, total } in bytes, then { stage: "starting" }
 *   keep        whether the browser keeps the files for the next visit (true), where it lets pages keep any
 */
export async function loadBundle(url = new URL(".", import.meta.url), options = {}) {
  const { device = "auto", dtype = "auto", threads = null, keep = true, onProgress = () => {} } = options;
  const worker = new BundleWorker();
  try {
    const request = { url: directory(url), device, dtype, threads, keep };
    return new Bundle(worker, await worker.call("load", request, onProgress));
  } catch (error) {
    worker.end();
    throw error;
  }
}

/**
 * How alike two vectors are, from -1 to 1.
 */
export function similarity(a, b) {
  const dot = (x, y) => x.reduce((sum, value, index) => sum + value * y[index], 0);
  return dot(a, b) / Math.max(Math.sqrt(dot(a, a) * dot(b, b)), 1e-12);
}

/**
 * A loaded model. `manifest` is the contents of edgeq.json; `device`, `dtype` and `threads` say what runs it;
 * `hasChat` whether `generate` also takes messages.
 */
class Bundle {
  #worker;

  constructor(worker, facts) {
    this.#worker = worker;
    Object.assign(this, facts);
  }

  /**
   * Continue a text, or answer messages [{ role: "user", content: "..." }]. Options:
   *   maxNewTokens  128
   *   temperature   0 takes the likeliest token
   *   topP          0.9, where the temperature is above 0
   *   onText        called with each new piece of text
   *   signal        an AbortSignal that stops it; what there is by then is the result
   * Returns { text, promptTokens, tokens, seconds, firstTokenSeconds, tokensPerSecond, stopped }.
   */
  async generate(prompt, { maxNewTokens = 128, temperature = 0, topP = 0.9, onText = () => {}, signal = null } = {}) {
    const stop = () => this.#worker.call("stop", {}).catch(() => {});
    if (signal?.aborted) throw new BundleError("It was stopped before it began.");
    signal?.addEventListener("abort", stop);
    try {
      return await this.#worker.call("generate", { prompt, maxNewTokens, temperature, topP }, onText);
    } finally {
      signal?.removeEventListener("abort", stop);
    }
  }

  /**
   * One Float32Array per text.
   */
  async embed(texts) {
    return await this.#worker.call("embed", { texts });
  }

  /**
   * Compare with the bundle's golden outputs: { cases, complaints }; without complaints all is well on this device.
   */
  async check() {
    return await this.#worker.call("check", {});
  }

  /**
   * End the worker and free its memory. Calls that still run fail.
   */
  close() {
    this.#worker.end();
  }
}

class BundleWorker {
  #calls = new Map();
  #next = 0;
  #worker;

  constructor() {
    this.#worker = startWorker();
    this.#worker.onmessage = ({ data }) => this.#receive(data);
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.end(new BundleError(`edgeq-worker.mjs does not run: ${event.message ?? "it is missing or cut."}`));
    };
  }

  call(method, argument, onEvent = () => {}) {
    if (!this.#worker) return Promise.reject(new BundleError("The bundle is closed."));
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#calls.set(id, { resolve, reject, onEvent });
      this.#worker.postMessage({ id, method, argument });
    });
  }

  end(error = new BundleError("The bundle was closed.")) {
    this.#worker?.terminate();
    this.#worker = null;
    for (const { reject } of this.#calls.values()) reject(error);
    this.#calls.clear();
  }

  #receive({ id, event, error, result }) {
    const call = this.#calls.get(id);
    if (!call) return;
    if (event !== undefined) {
      call.onEvent(event);
      return;
    }
    this.#calls.delete(id);
    if (error === undefined) call.resolve(result);
    else call.reject(new BundleError(error.message, { cause: error.cause }));
  }
}

function startWorker() {
  const url = new URL("./edgeq-worker.mjs", import.meta.url);
  if (url.origin === self.location?.origin) {
    return new Worker(new URL("./edgeq-worker.mjs", import.meta.url), { type: "module" });
  }
  // Workers start from the page's own origin only; a module of another one is let in by import.
  const source = new Blob([`import ${JSON.stringify(url.href)};`], { type: "text/javascript" });
  return new Worker(URL.createObjectURL(source), { type: "module" });
}

function directory(url) {
  const { href } = new URL(url, self.location?.href);
  return href.endsWith("/") ? href : `${href}/`;
}
