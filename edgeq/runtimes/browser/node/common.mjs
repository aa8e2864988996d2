// What both Node programs share: one line tells them what to do, they say in lines what happens, and they end with
// their parent, whatever ended it: its end of the pipe closes.
import fs from 'node:fs';
import readline from 'node:readline';

const END_MILLISECONDS = 3000;

export function say(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** The request, once it is there. From then on the parent's end also ends this process: `close` is tried first. */
export async function request(close) {
  const lines = readline.createInterface({ input: process.stdin });
  process.stdout.on('error', () => {});
  lines.once('close', async () => {
    await Promise.race([close(), new Promise((resolve) => setTimeout(resolve, END_MILLISECONDS))]).catch(() => {});
    process.exit(0);
  });
  return JSON.parse(await new Promise((resolve) => lines.once('line', resolve)));
}

export function remove(directory) {
  fs.rmSync(directory, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
}
