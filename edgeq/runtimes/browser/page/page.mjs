// The page that a browser bundle is judged in: nothing of onnxruntime-web is loaded before the first command.
import { drive } from './driver.mjs';

await drive({
  exchange: new URL('../exchange', import.meta.url),
  isIsolated: () => crossOriginIsolated,
  cores: () => navigator.hardwareConcurrency,
  runtime: async (packages) => {
    const ort = await import(`${packages}onnxruntime-web/dist/ort.webgpu.bundle.min.mjs`);
    ort.env.wasm.wasmPaths = { wasm: `${packages}onnxruntime-web/dist/ort-wasm-simd-threaded.asyncify.wasm` };
    return ort;
  },
});
