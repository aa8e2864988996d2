/**
 * A bundle's files: fetched, and compared with edgeq.json before anything uses them.
 */

const MANIFEST = "edgeq.json";
const SCHEMA = 1;
const KEPT = "edgeq";

/** What people can read and do something about. */
export class BundleError extends Error {
  name = "BundleError";
}

export function fail(message) {
  throw new BundleError(message);
}

/** The contents of the edgeq.json in the directory `base`, which was not changed since it was written. */
export async function readManifest(base) {
  const response = await request(new URL(MANIFEST, base), MANIFEST);
  const text = await response.text();
  const changed = new BundleError(`${MANIFEST} was changed after it was written, or is cut. Upload the bundle again.`);
  let manifest;
  try {
    manifest = JSON.parse(text);
  } catch {
    throw changed;
  }
  // The seal is the sha256 of all the other lines.
  const sealed = text.replace(/^ {2}"seal": "[0-9a-f]{64}",\n/m, "");
  if (manifest?.seal !== new Sha256().update(new TextEncoder().encode(sealed)).hex()) throw changed;
  if (manifest.schema !== SCHEMA) {
    throw new BundleError(`${MANIFEST} is of schema ${manifest.schema}; this page reads ${SCHEMA}.`);
  }
  return manifest;
}

async function request(url, path, signal = null) {
  let response;
  try {
    response = await fetch(url, { cache: "no-cache", signal });
  } catch (error) {
    throw new BundleError(`${path} cannot be fetched: the server does not answer.`, { cause: error });
  }
  if (response.status === 404) throw new BundleError(`${path} is missing from the bundle on the server.`);
  if (!response.ok) throw new BundleError(`${path} cannot be fetched: the server answers ${response.status}.`);
  return response;
}

/** Bytes of all `paths`, each of the size and the sha256 that the manifest says. */
export async function fetchAll(base, manifest, paths, store, report) {
  const entries = new Map(manifest.files.map((entry) => [entry.path, entry]));
  const wanted = paths.map((path) => entries.get(path) ?? fail(`${MANIFEST} does not list ${path}.`));
  const total = wanted.reduce((sum, entry) => sum + entry.bytes, 0);
  const stopping = new AbortController();
  let loaded = 0;
  const fetchOne = async (entry) => {
    const advance = (count) => report({ stage: "fetching", file: entry.path, loaded: (loaded += count), total });
    return [entry.path, await fetchEntry(base, entry, store, { advance, signal: stopping.signal })];
  };
  try {
    return new Map(await Promise.all(wanted.map(fetchOne)));
  } catch (error) {
    stopping.abort();
    throw error;
  }
}

async function fetchEntry(base, entry, store, { advance, signal }) {
  const key = new URL(`${KEPT}-${entry.sha256}`, base).href;
  const kept = await store?.match(key).catch(() => undefined);
  if (kept) {
    try {
      return await readEntry(kept, entry, advance);
    } catch {
      await store.delete(key); // what the browser kept is no longer whole: fetch it again
      advance(0);
    }
  }
  const url = new URL(entry.path.split("/").map(encodeURIComponent).join("/"), base);
  const response = await request(url, entry.path, signal);
  // Browsers may refuse to keep more; the bundle works without.
  const keeping = store?.put(key, response.clone()).catch(() => {});
  try {
    return await readEntry(response, entry, advance);
  } catch (error) {
    await store?.delete(key).catch(() => {});
    throw error;
  } finally {
    await keeping;
  }
}

async function readEntry(response, entry, advance) {
  const bytes = new Uint8Array(entry.bytes);
  const digest = new Sha256();
  const reader = response.body.getReader();
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (length + value.length > entry.bytes) {
        throw new BundleError(`${entry.path} has more than the ${entry.bytes} bytes that ${MANIFEST} says.`);
      }
      bytes.set(value, length);
      digest.update(value);
      length += value.length;
      advance(value.length);
    }
    if (length < entry.bytes) {
      const came = `${length} of its ${entry.bytes} bytes came`;
      throw new BundleError(`${entry.path} is cut: ${came}. Upload the bundle again.`);
    }
    if (digest.hex() !== entry.sha256) {
      throw new BundleError(
        `${entry.path} was changed: its sha256 is not the one in ${MANIFEST}. Upload the bundle again.`,
      );
    }
    return bytes;
  } catch (error) {
    advance(-length);
    reader.cancel().catch(() => {});
    if (error instanceof BundleError) throw error;
    throw new BundleError(`${entry.path} is cut: the connection broke after ${length} of its ${entry.bytes} bytes.`, {
      cause: error,
    });
  }
}

/** Where the browser keeps files for the next visit; null where it does not, as on pages without https. */
export async function openStore(keep) {
  if (!keep || !self.caches) return null;
  return await self.caches.open(KEPT).catch(() => null);
}

/** Forget the files of this place that its manifest no longer has. */
export async function tidy(store, base, manifest) {
  const current = new Set(manifest.files.map((entry) => new URL(`${KEPT}-${entry.sha256}`, base).href));
  for (const { url } of (await store?.keys()) ?? []) {
    if (url.startsWith(new URL(KEPT, base).href) && !current.has(url)) await store.delete(url);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// sha256 as bytes come in: the browser's own digest wants a whole file at once, a second time in memory, and is not
// there on pages without https.

export class Sha256 {
  #state = Int32Array.from(primes(8), (prime) => fraction(Math.sqrt(prime)));
  #block = new Uint8Array(64);
  #words = new Int32Array(64);
  #filled = 0;
  #length = 0;

  update(bytes) {
    this.#length += bytes.length;
    let start = 0;
    if (this.#filled) {
      start = Math.min(64 - this.#filled, bytes.length);
      this.#block.set(bytes.subarray(0, start), this.#filled);
      this.#filled += start;
      if (this.#filled < 64) return this;
      mix(this.#state, this.#words, this.#block, 0, 64);
    }
    const end = bytes.length - ((bytes.length - start) % 64);
    mix(this.#state, this.#words, bytes, start, end);
    start = end;
    this.#block.set(bytes.subarray(start));
    this.#filled = bytes.length - start;
    return this;
  }

  hex() {
    const bits = this.#length * 8;
    const padding = new Uint8Array((this.#filled < 56 ? 64 : 128) - this.#filled);
    padding[0] = 0x80;
    const view = new DataView(padding.buffer);
    view.setUint32(padding.length - 8, Math.floor(bits / 2 ** 32));
    view.setUint32(padding.length - 4, bits % 2 ** 32);
    this.update(padding);
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }
}

const CONSTANTS = Int32Array.from(primes(64), (prime) => fraction(Math.cbrt(prime)));

/** Plain numbers and one loop: this runs over every byte of the model. */
function mix(state, words, bytes, at, end) {
  let h0 = state[0];
  let h1 = state[1];
  let h2 = state[2];
  let h3 = state[3];
  let h4 = state[4];
  let h5 = state[5];
  let h6 = state[6];
  let h7 = state[7];
  while (at < end) {
    for (let i = 0; i < 16; i++, at += 4) {
      words[i] = (bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3];
    }
    for (let i = 16; i < 64; i++) {
      const x = words[i - 15];
      const y = words[i - 2];
      const low = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
      const high = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
      words[i] = (words[i - 16] + low + words[i - 7] + high) | 0;
    }
    let a = h0;
    let b = h1;
    let c = h2;
    let d = h3;
    let e = h4;
    let f = h5;
    let g = h6;
    let h = h7;
    for (let i = 0; i < 64; i++) {
      const high = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const first = (h + high + (g ^ (e & (f ^ g))) + CONSTANTS[i] + words[i]) | 0;
      const low = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const second = (low + ((a & b) | (c & (a | b)))) | 0;
      h = g;
      g = f;
      f = e;
      e = (d + first) | 0;
      d = c;
      c = b;
      b = a;
      a = (first + second) | 0;
    }
    h0 = (h0 + a) | 0;
    h1 = (h1 + b) | 0;
    h2 = (h2 + c) | 0;
    h3 = (h3 + d) | 0;
    h4 = (h4 + e) | 0;
    h5 = (h5 + f) | 0;
    h6 = (h6 + g) | 0;
    h7 = (h7 + h) | 0;
  }
  state.set([h0, h1, h2, h3, h4, h5, h6, h7]);
}

function primes(count) {
  const found = [];
  for (let number = 2; found.length < count; number++) {
    if (found.every((prime) => number % prime)) found.push(number);
  }
  return found;
}

function fraction(root) {
  return ((root - Math.floor(root)) * 2 ** 32) >>> 0;
}
