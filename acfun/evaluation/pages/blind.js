"use strict";
const QUESTIONS = ["person", "painting"];
const Z = 1.959964;

// Wilson's score interval of a share, as acfun.evaluation.metrics.wilson_interval.
function wilson(successes, count, z = Z) {
  if (count === 0) return [0, 1];
  const share = successes / count, spread = (z * z) / count;
  const centre = (share + spread / 2) / (1 + spread);
  const margin = (z / (1 + spread)) * Math.sqrt((share * (1 - share)) / count + spread / (4 * count));
  return [Math.max(0, centre - margin), Math.min(1, centre + margin)];
}

// Random numbers in [0, 1) from a seed: the order of pairs and sides outlives a reload.
function buildRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// The pairs [item, code, code] in random order, each with its sides in random order, and its own number.
function shuffle(pairs, seed) {
  const random = buildRandom(seed);
  const shown = pairs.map(([item, first, second], number) =>
    random() < 0.5 ? { number, item, left: first, right: second } : { number, item, left: second, right: first });
  for (let last = shown.length - 1; last > 0; last--) {
    const other = Math.floor(random() * (last + 1));
    [shown[last], shown[other]] = [shown[other], shown[last]];
  }
  return shown;
}

// Wins and decisions of each method by question; answers: number of the pair → {question: code or "same"}.
function tally(pairs, answers) {
  const rates = {};
  for (const [number, [, first, second]] of pairs.entries()) {
    for (const code of [first, second]) {
      rates[code] = rates[code] || Object.fromEntries(QUESTIONS.map((question) => [question, { wins: 0, count: 0 }]));
    }
    for (const question of QUESTIONS) {
      const winner = (answers[number] || {})[question];
      if (winner !== first && winner !== second) continue;
      rates[winner][question].wins += 1;
      for (const code of [first, second]) rates[code][question].count += 1;
    }
  }
  return rates;
}

function isAnswered(answer) {
  return QUESTIONS.every((question) => answer && answer[question]);
}

function start(data) {
  const key = `acfun-blind-${data.run}`;
  const fresh = () => ({ seed: Math.floor(Math.random() * 4294967296), answers: {} });
  const find = (id) => document.getElementById(id);
  let state = read() || fresh();
  let order = shuffle(data.pairs, state.seed);
  let position = 0;
  let showsNames = false;

  function read() {
    try { return JSON.parse(localStorage.getItem(key)); } catch { return null; }
  }

  function write() {
    try { localStorage.setItem(key, JSON.stringify(state)); } catch { /* private windows keep nothing */ }
  }

  function advance() {
    for (let step = 0; step < order.length; step++) {
      const next = (position + step) % order.length;
      if (!isAnswered(state.answers[order[next].number])) { position = next; return; }
    }
    position = order.length;
  }

  function show() {
    const count = order.filter((pair) => isAnswered(state.answers[pair.number])).length;
    find("progress").textContent = `${count} of ${order.length} pairs answered`;
    find("bar").style.width = `${(100 * count) / Math.max(1, order.length)}%`;
    const pair = order[position];
    find("trial").hidden = !pair;
    find("done").hidden = Boolean(pair);
    if (pair) {
      const item = data.items[pair.item];
      find("face").src = item.face;
      find("painting").src = data.styles[item.style];
      find("left").src = item.pictures[pair.left];
      find("right").src = item.pictures[pair.right];
      const answer = state.answers[pair.number] || {};
      for (const button of document.querySelectorAll("[data-choice]")) {
        const given = answer[button.parentElement.dataset.question];
        const value = button.dataset.choice === "same" ? "same" : pair[button.dataset.choice];
        button.setAttribute("aria-pressed", String(given === value));
      }
    }
    showRates();
  }

  function showRates() {
    const rates = tally(data.pairs, state.answers);
    find("rates").replaceChildren(...Object.keys(data.names).filter((code) => rates[code]).map((code) => {
      const row = document.createElement("tr");
      const texts = QUESTIONS.map((question) => describe(rates[code][question]));
      for (const text of [showsNames ? data.names[code] : `method ${code}`, ...texts]) {
        row.appendChild(document.createElement("td")).textContent = text;
      }
      return row;
    }));
  }

  function describe({ wins, count }) {
    if (count === 0) return "–";
    const [low, high] = wilson(wins, count).map((share) => Math.round(100 * share));
    return `${Math.round((100 * wins) / count)} %  (${low} to ${high} %), ${wins} of ${count}`;
  }

  function choose(question, choice) {
    const pair = order[position];
    const value = choice === "same" ? "same" : pair[choice];
    state.answers[pair.number] = { ...state.answers[pair.number], [question]: value };
    write();
    if (isAnswered(state.answers[pair.number])) advance();
    show();
  }

  function exportAnswers() {
    const name = (code) => data.names[code] || code;
    const answers = order.filter((pair) => state.answers[pair.number]).map((pair) => ({
      scene: data.items[pair.item].scene, person: data.items[pair.item].person, left: name(pair.left), right: name(pair.right),
      ...Object.fromEntries(Object.entries(state.answers[pair.number]).map(([question, value]) => [question, name(value)])),
    }));
    const rates = Object.entries(tally(data.pairs, state.answers)).map(([code, parts]) => [name(code),
      Object.fromEntries(QUESTIONS.map((question) => {
        const { wins, count } = parts[question];
        return [question, { wins, decisions: count, interval: wilson(wins, count) }];
      }))]);
    return { run: data.run, answers, win_rates: Object.fromEntries(rates) };
  }

  for (const button of document.querySelectorAll("[data-choice]")) {
    button.addEventListener("click", () => choose(button.parentElement.dataset.question, button.dataset.choice));
  }
  find("back").addEventListener("click", () => { position = Math.max(0, position - 1); show(); });
  find("skip").addEventListener("click", () => { position = (position + 1) % Math.max(1, order.length); show(); });
  find("names").addEventListener("click", () => {
    showsNames = !showsNames;
    find("names").textContent = showsNames ? "Hide names" : "Show names";
    showRates();
  });
  find("reset").addEventListener("click", () => {
    if (!confirm("Delete all answers in this browser?")) return;
    state = fresh();
    order = shuffle(data.pairs, state.seed);
    position = 0;
    write();
    show();
  });
  find("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(exportAnswers(), null, 2)], { type: "application/json" }));
    link.download = `blind-${data.run}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
  write();
  advance();
  show();
}

if (typeof document === "undefined") {
  module.exports = { wilson, shuffle, tally, isAnswered };
} else {
  start(JSON.parse(document.getElementById("data").textContent));
}
