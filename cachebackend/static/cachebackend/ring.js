// Fetches the page every few seconds and changes only the nodes of the document that differ, so that
// nothing flickers and focus, selection and open details stay. When the page cannot be fetched, the
// verdict says so: old figures must not look well.
"use strict";
(() => {
  const page = document.getElementById("ring-page");
  const pauseMs = Number(page.dataset.refresh) * 1000;
  const timeoutMs = 10_000;

  const keyOf = (node) => (node.nodeType === Node.ELEMENT_NODE && node.dataset.key) || undefined;
  const isSame = (one, another) => one?.nodeName === another.nodeName && keyOf(one) === keyOf(another);

  const morph = (old, next) => {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== next.nodeValue) old.nodeValue = next.nodeValue;
      return;
    }
    const isServers = ({ name }) => name !== "open"; // the user opens and closes details
    for (const { name } of [...old.attributes].filter(isServers)) {
      if (!next.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of [...next.attributes].filter(isServers)) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const keyed = new Map(); // several children may have one key, such as two faults of a kind
    for (const child of old.childNodes) {
      if (!keyed.has(keyOf(child))) keyed.set(keyOf(child), []);
      keyed.get(keyOf(child)).push(child);
    }
    let cursor = old.firstChild;
    for (const child of [...next.childNodes]) {
      const match = keyOf(child) ? keyed.get(keyOf(child))?.shift() : cursor;
      if (!isSame(match, child)) {
        old.insertBefore(document.adoptNode(child), cursor);
        continue;
      }
      if (match === cursor) cursor = cursor.nextSibling;
      else old.insertBefore(match, cursor);
      morph(match, child);
    }
    while (cursor) {
      const removed = cursor;
      cursor = cursor.nextSibling;
      removed.remove();
    }
  };

  let fetchedAt = Date.now();
  // Old figures are dimmed, and their age is shown: in a tab that was hidden, or while the site does not answer
  const showAge = () => {
    const seconds = Math.round((Date.now() - fetchedAt) / 1000);
    const isOld = seconds * 1000 > 3 * pauseMs;
    page.classList.toggle("old", isOld);
    if (isOld) page.dataset.age = seconds;
    else delete page.dataset.age;
  };

  const show = (next) => {
    fetchedAt = Date.now();
    const focused = document.activeElement;
    morph(page, next);
    if (focused !== document.activeElement && page.contains(focused)) focused.focus({ preventScroll: true });
  };

  const showFailure = (reason) => {
    const verdict = page.querySelector(".verdict");
    verdict.className = "verdict bad";
    verdict.querySelector("h2").textContent = "The figures are old";
    const from = page.querySelector(".when time").textContent;
    verdict.querySelector(".why").textContent = `They are from ${from}: ${reason}.`;
    page.classList.add("old");
    page.dataset.age = Math.round((Date.now() - fetchedAt) / 1000);
  };

  const refresh = async () => {
    try {
      const response = await fetch(location.pathname + page.dataset.query, { signal: AbortSignal.timeout(timeoutMs) });
      const text = await response.text();
      if (response.redirected) return showFailure("you are logged out");
      if (!response.ok) return showFailure(`the site returned an error (${response.status})`);
      const next = new DOMParser().parseFromString(text, "text/html").getElementById("ring-page");
      if (!next) return showFailure("the site returned another page");
      show(next);
    } catch {
      showFailure("the site does not answer");
    }
  };

  // One refresh after the other: a slow one must not overlap the next
  const run = async () => {
    if (!document.hidden) await refresh();
    setTimeout(run, pauseMs);
  };
  document.addEventListener("visibilitychange", () => {
    showAge();
    if (!document.hidden && page.classList.contains("old")) refresh();
  });
  document.documentElement.classList.add("refreshes");
  setTimeout(run, pauseMs);
})();
