// Finding an operation in the documentation of the API, which is all there without this.

const find = document.getElementById("find");
const found = document.getElementById("found");
const operations = [...document.querySelectorAll("details.operation")];
const texts = new Map(operations.map((one) => [one, one.textContent.toLowerCase()]));

function search() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [operation, text] of texts) {
    operation.hidden = !words.every((word) => text.includes(word));
    if (!operation.hidden) shown++;
  }
  for (const section of document.querySelectorAll("main > section")) {
    const own = [...section.querySelectorAll("details.operation")];
    section.hidden = words.length > 0 && own.every((one) => one.hidden);
  }
  found.textContent = words.length ? `${shown} found` : "";
}

/** Open what the address names. */
function reach() {
  const named = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!named) return;
  if (named.closest("[hidden]")) {
    find.value = "";
    search();
  }
  if (named.matches("details")) named.open = true;
  named.scrollIntoView();
}

find.addEventListener("input", search);
window.addEventListener("hashchange", reach);
document.addEventListener("keydown", (event) => {
  if (event.target === find && event.key === "Escape") find.blur();
  if (event.key !== "/" || event.target.matches("input, textarea")) return;
  event.preventDefault();
  find.focus();
});
reach();
