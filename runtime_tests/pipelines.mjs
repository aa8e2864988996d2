// transformers.js' own pipelines over a bundle: for Node as a program, for a browser as a module.
// As a program: argument 1 is transformers.js' module, stdin a JSON question { directory, name, dtype, task, ... }.
export async function ask(transformers, { directory, name, dtype, task, prompt, tokens, texts }) {
  const { env, pipeline } = transformers;
  Object.assign(env, { allowLocalModels: true, allowRemoteModels: false, localModelPath: directory, useBrowserCache: false });
  const run = await pipeline(task, name, { dtype });
  if (task === "feature-extraction") {
    return (await run(texts, { pooling: "mean", normalize: true })).tolist();
  }
  const [{ generated_text: text }] = await run(prompt, {
    max_new_tokens: tokens,
    do_sample: false,
    return_full_text: false,
  });
  const inputs = run.tokenizer(prompt);
  const ids = await run.model.generate({ ...inputs, max_new_tokens: tokens, do_sample: false });
  const count = inputs.input_ids.dims[1];
  return { text, ids: ids.tolist()[0].slice(count).map(Number) };
}

if (globalThis.process?.argv[2]) {
  const { text } = await import("node:stream/consumers");
  const { pathToFileURL } = await import("node:url");
  const transformers = await import(pathToFileURL(process.argv[2]).href);
  process.stdout.write(JSON.stringify(await ask(transformers, JSON.parse(await text(process.stdin)))));
}
