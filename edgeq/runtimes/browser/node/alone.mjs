// Runs the model in this process, with onnxruntime-web's build for Node: where there is no Chromium.
import os from 'node:os';
import { pathToFileURL } from 'node:url';
import { drive } from '../page/driver.mjs';
import { remove, request, say } from './common.mjs';

let asked;

/** End at once: an exit would wait until V8 has compiled all of the runtime once more, for speed. */
function leave() {
  if (asked) remove(asked.directory);
  process.kill(process.pid, 'SIGKILL');
}

asked = await request(async () => leave());
const built = (name) => pathToFileURL(`${asked.packages}/onnxruntime-web/dist/${name}`).href;
say({ event: 'ready', host: `Node ${process.versions.node}`, model: [process.pid], gpu: [] });
await drive({
  exchange: asked.exchange,
  isIsolated: () => true,
  cores: () => os.availableParallelism(),
  runtime: async () => {
    const ort = await import(built('ort.node.min.mjs'));
    // Its own choice has kernels that the browsers' build lacks.
    const wasm = 'ort-wasm-simd-threaded.asyncify';
    ort.env.wasm.wasmPaths = { mjs: built(`${wasm}.mjs`), wasm: built(`${wasm}.wasm`) };
    return ort;
  },
});
leave();
