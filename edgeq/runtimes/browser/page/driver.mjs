// Runs one model for edgeq, in a page or in Node: takes a command, answers it with numbers, asks for the next.
// An answer is the length of its JSON head (uint32, little endian), the head, and the numbers (float32).

const PAST = 'past_key_values.';
const PLACEMENT = 'VerifyEachNodeIsAssignedToAnEp';
const VERBOSE = 0;
const ERRORS_ONLY = 3;

/** Obey until the command `close`, or until nobody listens any more. */
export async function drive(host) {
  let model;
  let reply = pack({ hello: true });
  for (;;) {
    const command = await send(host.exchange, reply);
    reply = new Blob([]);
    if (command === null) continue;
    if (command === undefined || command.operation === 'close') return;
    try {
      let numbers;
      let head;
      if (command.operation === 'open') {
        [model, head] = await Model.open(command, host);
      } else {
        [numbers, head] = await model[command.operation](command);
      }
      reply = pack(head, numbers);
    } catch (error) {
      reply = pack({ kind: error.kind ?? kindOf(error), error: String(error?.message ?? error) });
    }
  }
}

/** Post a reply; the next command, null where there is none yet, undefined where the server is gone. */
async function send(exchange, body) {
  try {
    const response = await fetch(exchange, { method: 'POST', body });
    if (!response.ok) return undefined;
    return response.status === 204 ? null : await response.json();
  } catch {
    return undefined;
  }
}

function pack(head, numbers) {
  const text = new TextEncoder().encode(JSON.stringify(head));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, text.length, true);
  return new Blob(numbers ? [length, text, numbers] : [length, text]);
}

/** What WebAssembly, V8 and onnxruntime-web say where they are refused memory. */
function kindOf(error) {
  const refused = /bad_alloc|out of memory|\bOOM\b|allocation failed|could not allocate|failed to allocate|cannot enlarge/i;
  return refused.test(String(error)) ? 'memory' : 'refused';
}

function failure(kind, message) {
  return Object.assign(new Error(message), { kind });
}

class Model {
  /** Load the runtime and the model; `[model, what the answer says]`. */
  static async open(command, host) {
    if (!host.isIsolated()) throw failure('unavailable', 'the page is not isolated: WebAssembly has one thread only');
    const facts = command.provider === 'webgpu' ? await examineAdapter(command.half) : {};
    const started = performance.now();
    const ort = await host.runtime(command.packages);
    ort.env.wasm.numThreads = command.threads || host.cores();
    const [bytes, ...chunks] = await Promise.all([command.model, ...command.chunks].map(fetchBytes));
    const names = command.chunks.map((url) => decodeURIComponent(url.slice(url.lastIndexOf('/') + 1)));
    const options = {
      executionProviders: [command.provider],
      externalData: chunks.map((data, index) => ({ path: names[index], data })),
      logSeverityLevel: ERRORS_ONLY,
    };
    const lines = command.provider === 'webgpu' ? listen(options, command) : () => [];
    let session;
    let placement;
    try {
      session = await ort.InferenceSession.create(bytes, options);
    } finally {
      placement = lines();
    }
    const model = new Model(ort, session);
    const seconds = (performance.now() - started) / 1000;
    return [model, { seconds, threads: ort.env.wasm.numThreads, facts, placement, outputs: session.outputNames }];
  }

  constructor(ort, session) {
    this.ort = ort;
    this.session = session;
    this.types = Object.fromEntries(session.inputMetadata.map((one) => [one.name, one]));
    this.past = {};
    this.reset();
  }

  /** Let go of the cache: `[no numbers, the answer]`. */
  reset() {
    for (const tensor of Object.values(this.past)) tensor.dispose();
    this.past = {};
    for (const [name, { type, shape }] of Object.entries(this.types)) {
      if (!name.startsWith(PAST)) continue;
      const dims = shape.map((size, axis) => (axis === 0 ? 1 : typeof size === 'number' ? size : 0));
      this.past[name] = this.tensor(type, 0, dims);
    }
    return [undefined, {}];
  }

  /** Append `ids` after `length` tokens: the last logits, `keep` of them or all for 0. */
  async append({ ids, length, keep }) {
    const total = length + ids.length;
    const feeds = { ...this.past };
    this.feed(feeds, 'input_ids', ids, [1, ids.length]);
    this.feed(feeds, 'attention_mask', new Array(total).fill(1), [1, total]);
    this.feed(feeds, 'position_ids', ids.map((_, index) => length + index), [1, ids.length]);
    this.feed(feeds, 'num_logits_to_keep', [keep], []);
    const [outputs, seconds] = await this.run(feeds);
    for (const tensor of Object.values(this.past)) tensor.dispose();
    this.past = {};
    for (const [name, tensor] of Object.entries(outputs)) {
      if (name.startsWith('present.')) this.past[name.replace('present.', PAST)] = tensor;
    }
    const { dims } = outputs.logits;
    let logits = asFloats(outputs.logits);
    // A model without the input gives all of them.
    const kept = Math.min(keep || dims[1], dims[1]);
    logits = logits.subarray(logits.length - kept * dims[2]);
    return [logits, { seconds, shape: [kept, dims[2]] }];
  }

  /** Run a padded batch, `rows` of equal length: the numbers of the output `output`. */
  async encode({ rows, output, inputs }) {
    const feeds = {};
    for (const [name, values] of Object.entries(inputs)) {
      this.feed(feeds, name, values, [rows, values.length / rows]);
    }
    const [outputs, seconds] = await this.run(feeds);
    return [asFloats(outputs[output]), { seconds, shape: outputs[output].dims }];
  }

  feed(feeds, name, values, dims) {
    if (name in this.types) feeds[name] = new this.ort.Tensor('int64', BigInt64Array.from(values, BigInt), dims);
  }

  async run(feeds) {
    const started = performance.now();
    const outputs = await this.session.run(feeds);
    return [outputs, (performance.now() - started) / 1000];
  }

  /** A tensor of zeros. */
  tensor(type, count, dims) {
    const kinds = { float32: Float32Array, float16: globalThis.Float16Array ?? Uint16Array };
    if (!(type in kinds)) throw new Error(`a cache of type ${type}`);
    return new this.ort.Tensor(type, new kinds[type](count), dims);
  }
}

async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url.slice(url.lastIndexOf('/') + 1)} is missing`);
  return new Uint8Array(await response.arrayBuffer());
}

async function examineAdapter(half) {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter();
  if (!adapter) throw failure('unavailable', 'there is no WebGPU adapter');
  const hasHalf = adapter.features.has('shader-f16');
  if (half && !hasHalf) throw failure('unavailable', 'the WebGPU adapter has no shader-f16, which a float16 model needs');
  const { vendor, architecture } = adapter.info;
  return { adapter: [vendor, architecture].filter(Boolean).join('/') || 'unnamed', shader_f16: hasHalf ? 'yes' : 'no' };
}

/** Have the runtime say which node runs where, and its cache stay on the GPU; what it said comes from the function. */
function listen(options, command) {
  options.logSeverityLevel = VERBOSE;
  options.preferredOutputLocation = Object.fromEntries(command.cache.map((name) => [name, 'gpu-buffer']));
  const heard = [];
  const kept = {};
  for (const level of ['log', 'debug', 'info', 'warn', 'error']) {
    kept[level] = console[level];
    console[level] = (...words) => heard.push(words.join(' '));
  }
  return () => {
    Object.assign(console, kept);
    return heard.filter((line) => line.includes(PLACEMENT));
  };
}

function asFloats(tensor) {
  const { data } = tensor;
  if (tensor.type === 'float32') return data;
  if (tensor.type !== 'float16') throw new Error(`an output of type ${tensor.type}`);
  return data instanceof Uint16Array ? Float32Array.from(data, widen) : new Float32Array(data);
}

/** The number that 16 bits are as a float16. */
function widen(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
}
