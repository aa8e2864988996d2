// A browser that a test drives: one JSON command a line on stdin, one JSON answer a line on stdout.
// Arguments: playwright-core's module, the browser's executable, and a JSON object { width, webgpu }.
import process from "node:process";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

const [module, executablePath, settings] = process.argv.slice(2);
const { width, webgpu } = JSON.parse(settings);
const { chromium } = (await import(pathToFileURL(module).href)).default;
const args = ["--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
args.push("--host-resolver-rules=MAP edgeq.test 127.0.0.1"); // a name that is not this machine's to the browser
if (process.getuid?.() === 0) args.push("--no-sandbox");
if (webgpu) args.push("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader");
const browser = await chromium.launch({ executablePath, headless: true, args });
const context = await browser.newContext({ viewport: { width, height: 800 } });
const page = await context.newPage();
const said = [];
const requested = [];
page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
page.on("pageerror", (error) => said.push(`error: ${error.message}`));
page.on("requestfinished", (request) => requested.push(request.url()));
page.setDefaultTimeout(60_000);

const COMMANDS = {
  open: async ({ url }) => void (await page.goto(url)),
  click: async ({ selector }) => void (await page.click(selector)),
  type: async ({ selector, text }) => void (await page.fill(selector, text)),
  choose: async ({ selector, value }) => void (await page.selectOption(selector, value)),
  dark: async () => void (await page.emulateMedia({ colorScheme: "dark" })),
  wait: async ({ condition }) => void (await page.waitForFunction(condition)),
  evaluate: async ({ script }) => (await page.evaluate(script)) ?? null,
  screenshot: async ({ path }) => void (await page.screenshot({ path, fullPage: true })),
  requests: async () => requested.splice(0),
  console: async () => said.splice(0),
};

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { command, ...argument } = JSON.parse(line);
  let answer;
  try {
    answer = { result: (await COMMANDS[command](argument)) ?? null };
  } catch (error) {
    answer = { error: String(error), console: said.splice(0) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
