// The sample browser, and the download of metrics. Texts of the data become text nodes only, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const download = at("download");
  if (download) {
    download.hidden = false;
    download.addEventListener("click", () => {
      const url = URL.createObjectURL(new Blob([data.csv], { type: "text/csv" }));
      make("a", { href: url, download: `${data.name}_metrics.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    });
  }
  if (!at("browser")) return;
  at("browser").hidden = false;

  // Words with the space before them, so that they join to the text.
  const words = (text) => text.match(/\s*\S+|\s+$/g) || [];

  // Longest common subsequence: which words of either text the other has in the same order.
  function difference(before, after) {
    const [a, b] = [words(before), words(after)];
    const [x, y] = [a.map((w) => w.trim()), b.map((w) => w.trim())];
    const width = y.length + 1;
    const length = new Uint16Array((x.length + 1) * width);
    for (let i = x.length - 1; i >= 0; i--) {
      for (let j = y.length - 1; j >= 0; j--) {
        length[i * width + j] = x[i] === y[j] ? length[(i + 1) * width + j + 1] + 1
          : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
      }
    }
    const [left, right] = [a.map(() => true), b.map(() => true)];
    for (let i = 0, j = 0; i < x.length && j < y.length;) {
      if (x[i] === y[j]) left[i++] = right[j++] = false;
      else if (length[(i + 1) * width + j] >= length[i * width + j + 1]) i++;
      else j++;
    }
    return { left: [a, left], right: [b, right], shared: length[0] };
  }

  // Marks runs of words that differ; unrelated texts stay unmarked, marks on nearly every word would hide them.
  function marked(pieces, flags, tag) {
    const text = make("p", { class: "text" });
    for (let i = 0; i < pieces.length;) {
      let end = i;
      while (end < pieces.length && flags[end] === flags[i]) end++;
      const run = pieces.slice(i, end).join("");
      const core = run.trimStart();
      if (flags[i] && core) text.append(run.slice(0, run.length - core.length), make(tag, {}, core));
      else text.append(run);
      i = end;
    }
    return text;
  }

  function sideBySide(before, after) {
    const found = difference(before, after);
    const most = Math.max(found.left[0].length, found.right[0].length);
    if (3 * found.shared < most) return [plain(before), plain(after)];
    return [marked(...found.left, "del"), marked(...found.right, "ins")];
  }

  const plain = (text) => (text ? make("p", { class: "text" }, text) : make("p", { class: "quiet" }, "(empty)"));
  const step = (label, ...content) => make("li", {}, make("span", { class: "label" }, label), ...content);
  const largest = () => Math.max(0, ...view.samples.map((sample) => Math.abs(sample.score ?? 0)));

  // As the tables do: decimals by the size of the largest value beside it.
  function number(value, like) {
    if (like > 0 && like < 1e-3) return value.toExponential(1);
    const decimals = like >= 1000 ? 0 : like >= 10 ? 1 : like > 1 ? 2 : 3;
    return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
  }

  function folded(label, text) {
    const short = words(text).slice(0, 60).join("");
    if (short.length > 0.8 * text.length) return step(label, plain(text));
    return step(label, make("details", {}, make("summary", { "aria-label": `${label}: the whole text` }, make("span", { class: "opening" }, `${short} …`), " ",
      make("span", { class: "more" })), plain(text)));
  }

  function candidates(sample, like) {
    const order = [...sample.candidates].sort((a, b) => b.chosen - a.chosen || (b.score ?? 0) - (a.score ?? 0));
    const rows = order.map((candidate) => make("li", candidate.chosen ? { class: "chosen" } : {},
      make("span", { class: "tags" },
        candidate.chosen ? make("b", {}, sample.given ? "the scorer's pick" : "picked") : null,
        candidate.score === null ? null : make("span", {}, `${view.score} ${number(candidate.score, like)}`),
        candidate.also.length ? make("span", {}, `also the pick of: ${candidate.also.join(", ")}`) : null,
        candidate.cut_off ? make("span", { class: "warn" }, "cut at the limit") : null),
      plain(candidate.text)));
    return make("ol", { class: "candidates" }, ...rows);
  }

  function candidateChain(sample) {
    const like = largest();
    const texts = view.kind === "training" ? "refinements" : "outputs";
    const picked = sample.given || sample.candidates.find((candidate) => candidate.chosen);
    const steps = [];
    let pick = picked ? plain(picked.text) : null;
    if ("draft" in sample) {
      const [draft, other] = picked ? sideBySide(sample.draft, picked.text) : [plain(sample.draft), null];
      steps.push(step("draft_score" in sample ? `Draft, score ${number(sample.draft_score, like)}` : "Draft", draft));
      pick = other;
    }
    if (sample.feedback) steps.push(step(sample.source ? `Feedback (${sample.source})` : "Feedback", plain(sample.feedback)));
    if (sample.given) {
      steps.push(step(`Picked: the refinement that the reviewer gave (by ${sample.given.by})`, pick));
    } else if (picked) {
      const score = picked.score === null ? "" : `, ${view.score} ${number(picked.score, like)}`;
      steps.push(step(`Picked of ${sample.candidates.length} ${texts}${score}`, pick));
    }
    if (sample.candidates.length) {
      const all = candidates(sample, like);
      const label = `${sample.candidates.length} ${texts}${sample.candidates[0].score === null ? "" : " with scores"}`;
      steps.push(make("li", {}, make("details", sample.candidates.length > 8 ? {} : { open: "" },
        make("summary", {}, make("span", { class: "label" }, label)), all)));
    }
    if ("new_draft" in sample) {
      const [, later] = sideBySide(sample.draft, sample.new_draft);
      steps.push(step(`The policy's new draft, iteration ${sample.new_draft_iteration}`, later));
    }
    return steps;
  }

  function heldOutChain(sample) {
    const first = sample.outputs[0];
    const like = Math.max(...sample.outputs.map((output) => Math.abs(output.value ?? 0)));
    return sample.outputs.map((output, i) => {
      const name = output.iteration === 0 ? "Before training" : `After iteration ${output.iteration}`;
      const value = output.value === null ? "" : `, ${data.metric} ${number(output.value, like)}`;
      const cut = output.cut_off ? make("span", { class: "warn label" }, " cut at the limit") : null;
      return step(name + value, cut, i === 0 ? plain(output.text) : sideBySide(first.text, output.text)[1]);
    });
  }

  let view = null; // the list that is shown
  let shown = []; // its samples, searched and in order
  let chosen = 0; // index in `shown`
  const documentOf = (sample) => data.documents[view.kind === "training" ? "training" : "heldout"][sample.id];
  const name = (sample) => documentOf(sample).title || documentOf(sample).text.slice(0, 80) || sample.id;

  function haystack(sample) {
    const texts = [sample.id, ...Object.values(documentOf(sample)), sample.draft, sample.feedback, sample.new_draft];
    texts.push(...(sample.candidates || sample.outputs).map((each) => each.text));
    return texts.join("\n").toLowerCase();
  }

  function fill(select, options, keep) {
    select.replaceChildren(...options.map(([value, label]) => make("option", { value }, label)));
    if (options.some(([value]) => value === keep)) select.value = keep;
  }

  const kindNames = { heldout: "held out: before and after", training: "training: draft to pick",
    best_of_n: "held out: best of N" };
  const unique = (values) => [...new Set(values)];

  function choices() {
    const kinds = unique(data.views.map((each) => each.kind));
    fill(at("kind"), kinds.map((kind) => [kind, kindNames[kind]]), at("kind").value);
    const ofKind = data.views.filter((each) => each.kind === at("kind").value);
    fill(at("system"), unique(ofKind.map((each) => each.system)).map((system) => [system, system]), at("system").value);
    const ofSystem = ofKind.filter((each) => each.system === at("system").value);
    at("iteration-label").hidden = ofSystem[0].iteration === null;
    fill(at("iteration"), ofSystem.map((each) => [String(each.iteration), String(each.iteration)]), at("iteration").value);
    const last = view;
    view = ofSystem.find((each) => String(each.iteration) === at("iteration").value) || ofSystem[0];
    const same = last && last.kind === view.kind;
    fill(at("order"), orders(), same ? at("order").value : null);
    arrange(null);
  }

  // The first is where the reader begins: with the worst, where that is known.
  function orders() {
    const has = (key) => view.samples.some((sample) => (sample[key] ?? null) !== null);
    return [
      ...(has("worst") ? [["worst", "worst first"], ["-worst", "best first"]] : []),
      ["data", "of the data"],
      ...(has("score") && !has("worst") ? [["-score", `highest ${view.score} first`], ["score", `lowest ${view.score} first`]] : []),
      ...(has("change") ? [["-change", "largest change first"], ["change", "smallest change first"]] : []),
    ];
  }

  function arrange(keepId) {
    const query = at("search").value.trim().toLowerCase();
    shown = view.samples.filter((sample) => !query || haystack(sample).includes(query));
    const order = at("order").value;
    if (order !== "data") {
      const key = order.replace("-", "");
      const sign = order.startsWith("-") ? -1 : 1;
      const rank = (sample) => ((sample[key] ?? null) === null ? Infinity : sign * sample[key]); // without a value: last
      shown.sort((a, b) => (rank(a) === rank(b) ? 0 : rank(a) - rank(b)));
    }
    const found = query ? `${shown.length} of ` : "";
    const all = view.samples.length;
    const part = all < view.of ? ` of ${view.of.toLocaleString("en-US")}, ${view.worst ? "the worst and others at random" : "chosen at random"} (the page holds at most ${data.most} samples)` : "";
    at("count").textContent = `${found}${all} document${all === 1 ? "" : "s"}${part}.`;
    const like = largest();
    at("list").replaceChildren(...shown.map((sample, i) => {
      const score = sample.score === null ? "" : number(sample.score, like);
      const change = sample.change === null ? "" : `${Math.round(100 * sample.change)} % changed`;
      const worse = (sample.worse || []).length ? `worse: ${sample.worse.join(", ")}` : "";
      const button = make("button", { type: "button", tabindex: "-1" }, make("span", { class: "title" }, name(sample)),
        make("span", { class: "numbers" }, [score && `${view.score} ${score}`, change, worse].filter(Boolean).join(" · ")));
      button.addEventListener("click", () => choose(i));
      return make("li", {}, button);
    }));
    choose(Math.max(0, shown.findIndex((sample) => sample.id === keepId)));
  }

  function choose(index, focus) {
    chosen = Math.min(Math.max(index, 0), shown.length - 1);
    const buttons = at("list").querySelectorAll("button");
    buttons.forEach((button, i) => {
      button.tabIndex = i === chosen ? 0 : -1;
      if (i === chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    if (buttons[chosen]) {
      const [list, item] = [at("list"), buttons[chosen].parentElement];
      if (item.offsetTop < list.scrollTop) list.scrollTop = item.offsetTop;
      else if (item.offsetTop + item.offsetHeight > list.scrollTop + list.clientHeight) {
        list.scrollTop = item.offsetTop + item.offsetHeight - list.clientHeight;
      }
      if (focus) buttons[chosen].focus({ preventScroll: true });
    }
    show();
  }

  function show() {
    const place = at("sample");
    const sample = shown[chosen];
    if (!sample) {
      place.replaceChildren(make("p", { class: "quiet" }, "No sample has this text."));
      return;
    }
    const about = documentOf(sample);
    const move = (label, by) => {
      const button = make("button", { type: "button", id: by < 0 ? "previous" : "next" }, label);
      button.disabled = !shown[chosen + by];
      button.addEventListener("click", () => {
        choose(chosen + by);
        (at(by < 0 ? "previous" : "next").disabled ? at("copy") : at(by < 0 ? "previous" : "next")).focus();
      });
      return button;
    };
    const copy = make("button", { type: "button", id: "copy" }, "Copy as JSON");
    copy.addEventListener("click", copySample);
    const steps = [];
    if (about.text) steps.push(folded("Document", about.text));
    steps.push(...(view.kind === "heldout" ? heldOutChain(sample) : candidateChain(sample)));
    if (about.human_refinement) steps.push(step("Refinement by a person", plain(about.human_refinement)));
    if (about.reference) steps.push(step("Reference", plain(about.reference)));
    place.replaceChildren(
      make("div", { class: "heading" }, make("h3", {}, about.title || sample.id),
        make("span", { class: "quiet" }, `${chosen + 1} of ${shown.length}`),
        make("span", { class: "buttons" }, move("Previous", -1), move("Next", 1), copy,
          make("span", { id: "copied", role: "status", class: "quiet" }))),
      make("ol", { class: "chain" }, ...steps));
  }

  async function copySample() {
    const sample = shown[chosen];
    if (!sample) return;
    const { kind, system, iteration } = view;
    const text = JSON.stringify({ kind, system, iteration, document: documentOf(sample), ...sample }, null, 2);
    try {
      await navigator.clipboard.writeText(text);
      at("copied").textContent = "copied";
    } catch { // a browser that allows no copying: the text to copy by hand
      const area = make("textarea", { readonly: "", rows: "8", "aria-label": "The sample as JSON" });
      area.value = text;
      at("sample").append(area);
      area.select();
      at("copied").textContent = "not allowed here: copy it from the box below";
    }
  }

  for (const id of ["kind", "system", "iteration"]) at(id).addEventListener("change", choices);
  const again = () => arrange(shown[chosen] ? shown[chosen].id : null);
  at("order").addEventListener("change", () => arrange(null));
  at("search").addEventListener("input", again);

  at("list").addEventListener("keydown", (event) => {
    const to = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, Home: 0, End: shown.length - 1 }[event.key];
    if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(to, true);
  });
  at("browser").addEventListener("keydown", (event) => {
    if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = { j: () => choose(chosen + 1, true), k: () => choose(chosen - 1, true), "/": () => at("search").focus(),
      c: copySample }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  choices();
})();
