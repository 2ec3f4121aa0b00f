// Refinements and colours from the learner at hand.
import {ask, entry, form, notice, paint, post, state, takeOver} from "./review.js";

const byId = (id) => document.getElementById(id);

byId("refine").addEventListener("click", async () => {
  const list = byId("refinements"), button = byId("refine");
  button.disabled = true;
  list.replaceChildren();
  const answer = await post(`/items/${state.item}/refine`, {entry: entry()});
  if (!answer.ok) {
    notice((await answer.json()).error);
  } else {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      const lines = (rest + part.value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const said = JSON.parse(line);
        if (said.error) notice(said.error);
        else show(list, said.text);
      }
    }
  }
  button.disabled = false;
});

function show(list, text) {
  const row = document.createElement("li"), words = document.createElement("bdi"), take = document.createElement("button");
  words.textContent = text;
  take.type = "button";
  take.textContent = "Take over";
  take.disabled = form.querySelector("fieldset").disabled;
  take.addEventListener("click", () => takeOver(text));
  row.append(words, " ", take);
  list.append(row);
}

byId("color").addEventListener("click", async () => {
  const said = await ask(`/items/${state.item}/colors`, {entry: entry()});
  if (!said) return;
  const scale = Math.max(0.5, ...said.values.map(Math.abs));
  paint(said.tokens.map((text, i) => {
    const value = said.values[i], color = `rgba(var(--${value < 0 ? "less" : "more"}), ${(0.75 * Math.abs(value)) / scale})`;
    return [text, {className: "token", title: `${value >= 0 ? "+" : ""}${value.toFixed(2)} nats`, color}];
  }));
  byId("effect").textContent = `Under this comment the draft is ${said.mean < 0 ? "less" : "more"} likely by ${Math.abs(said.mean).toFixed(2)} nats a token.`;
});
