// Starts headless Chromium on a page; says which processes it is made of, and when it or the page ends.
import { createRequire } from 'node:module';
import { remove, request, say } from './common.mjs';

const SPIN_MILLISECONDS = 250;

let browser;

/** The process of the page: the renderer that has computed for as long as the page says of its own. */
async function pageProcess(page, processes) {
  const devtools = await page.context().newCDPSession(page);
  await devtools.send('Performance.enable');
  // Others wait for work: after this no other has computed for as long.
  await page.evaluate((limit) => {
    for (const start = performance.now(); performance.now() - start < limit; );
  }, SPIN_MILLISECONDS);
  const { metrics } = await devtools.send('Performance.getMetrics');
  const seconds = metrics.find((one) => one.name === 'ProcessTime').value;
  const distances = (await processes('renderer')).map((one) => [one.id, Math.abs(one.cpuTime - seconds)]);
  await devtools.detach();
  return distances.sort((one, other) => one[1] - other[1])[0][0];
}

async function start(asked) {
  const { chromium } = createRequire(import.meta.url)(`${asked.packages}/playwright-core`);
  const { executable: executablePath, sandbox: chromiumSandbox, flags: args, timeout } = asked;
  const launched = chromium.launch({ executablePath, chromiumSandbox, args, timeout });
  // Playwright kills the browser when this process ends; its files can be removed after that.
  process.on('exit', () => remove(asked.directory));
  browser = await launched;
  browser.on('disconnected', () => say({ event: 'gone' }));
  const page = await browser.newPage();
  page.on('crash', () => say({ event: 'crashed' }));
  page.on('pageerror', (error) => say({ event: 'failed', what: error.message }));
  await page.goto(asked.page, { timeout });
  const session = await browser.newBrowserCDPSession();
  const processes = async (type) =>
    (await session.send('SystemInfo.getProcessInfo')).processInfo.filter((one) => one.type === type);
  const gpu = (await processes('GPU')).map((one) => one.id);
  say({ event: 'ready', host: `Chromium ${browser.version()}`, model: [await pageProcess(page, processes)], gpu });
}

const asked = await request(async () => browser?.close());
try {
  await start(asked);
} catch (error) {
  say({ event: 'failed', what: error.message });
}
