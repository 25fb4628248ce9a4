// Fetches the page every few seconds and changes what differs in place, so that nothing flickers and
// what has the focus, is selected or is open stays so. When it cannot, it says so: old figures are not well.
"use strict";
(() => {
  const page = document.getElementById("ring-page");
  const pauseMs = Number(page.dataset.refresh) * 1000;
  const patienceMs = 10_000;

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE && node.dataset.key) || undefined;
  const isSame = (one, other) => one?.nodeName === other.nodeName && keyOf(one) === keyOf(other);

  const morph = (old, next) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
      return;
    }
    const own = ({ name }) => name !== "open"; // whoever looks opens and closes
    for (const { name } of [...old.attributes].filter(own)) if (!next.hasAttribute(name)) old.removeAttribute(name);
    for (const { name, value } of [...next.attributes].filter(own)) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const keyed = new Map([...old.childNodes].map((child) => [keyOf(child), child]));
    let at = old.firstChild;
    for (const wanted of [...next.childNodes]) {
      const found = keyOf(wanted) ? keyed.get(keyOf(wanted)) : at;
      if (!isSame(found, wanted)) {
        old.insertBefore(document.adoptNode(wanted), at);
        continue;
      }
      if (found === at) at = at.nextSibling;
      else old.insertBefore(found, at);
      morph(found, wanted);
    }
    while (at) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
  };

  const show = (next) => {
    const focused = document.activeElement;
    morph(page, next);
    if (focused !== document.activeElement && page.contains(focused)) focused.focus({ preventScroll: true });
  };

  const tellBlind = (why) => {
    const verdict = page.querySelector(".verdict");
    verdict.className = "verdict bad";
    verdict.querySelector("h2").textContent = "Cannot be seen";
    const from = page.querySelector(".when time").textContent;
    verdict.querySelector(".why").textContent = `Figures are from ${from}: ${why}.`;
  };

  const refresh = async () => {
    try {
      const answer = await fetch(location.pathname, { signal: AbortSignal.timeout(patienceMs) });
      const text = await answer.text();
      if (answer.redirected) return tellBlind("you are logged out");
      if (!answer.ok) return tellBlind(`the site answered with an error (${answer.status})`);
      const next = new DOMParser().parseFromString(text, "text/html").getElementById("ring-page");
      if (!next) return tellBlind("the site answered with another page");
      show(next);
    } catch {
      tellBlind("the site does not answer");
    }
  };

  // One after the other: a look that takes long must not meet the next one
  const turn = async () => {
    if (!document.hidden) await refresh();
    setTimeout(turn, pauseMs);
  };
  document.documentElement.classList.add("refreshes");
  setTimeout(turn, pauseMs);
})();
