// Renews the page in place. What cannot be asked any more stays, and says how old it is.
const lost = document.getElementById("lost");
let answered = Date.now();

async function renew() {
  try {
    const answer = await fetch("/", { cache: "no-store" });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text.trim() || answer.statusText);
    const page = new DOMParser().parseFromString(text, "text/html");
    document.querySelector("main").replaceWith(page.querySelector("main"));
    answered = Date.now();
    lost.hidden = true;
  } catch (problem) {
    const age = Math.round((Date.now() - answered) / 1000);
    lost.textContent = `The broker has not answered for ${age} s (${problem.message}); this is what it said then.`;
    lost.hidden = false;
  }
  setTimeout(renew, document.hidden ? 10000 : 2000);
}

setTimeout(renew, 2000);
