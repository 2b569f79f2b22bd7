// The status page in a real browser, as large as a phone. Each line on standard input asks for one thing, each line on standard
// output answers one:
//
//   wait TEXT     answers once the page shows the text, without having been loaded again
//   alert         answers with the warning that the page shows once the broker is gone
//   widths        answers with how wide the page and the window are
//   errors        answers with what the browser's console complained of
//   picture PATH  answers once a picture of the page is there
import { createInterface } from "node:readline";
import { createRequire } from "node:module";

const [home, url] = process.argv.slice(2);
const { chromium } = createRequire(home + "/")("playwright-core");

const quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"];
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: quiet });
const page = await browser.newPage({ viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true });
const errors = [];
page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
page.on("pageerror", (error) => errors.push(String(error)));
await page.goto(url);
await page.evaluate(() => (window.sameDocument = true));
console.log(await page.title());

for await (const line of createInterface({ input: process.stdin })) {
  const [verb, ...rest] = line.split(" ");
  const argument = rest.join(" ");
  if (verb === "wait") {
    await page.waitForFunction((text) => window.sameDocument && document.querySelector("main").innerText.includes(text), argument, { timeout: 20000 });
    console.log("shown");
  } else if (verb === "alert") {
    await page.waitForSelector("#lost:not([hidden])", { timeout: 20000 });
    console.log(await page.innerText("#lost"));
  } else if (verb === "widths") {
    console.log(await page.evaluate(() => `${document.documentElement.scrollWidth} ${window.innerWidth}`));
  } else if (verb === "errors") {
    console.log(errors.splice(0).join("; "));
  } else if (verb === "picture") {
    await page.screenshot({ path: argument, fullPage: true });
    console.log("taken");
  }
}
await browser.close();
