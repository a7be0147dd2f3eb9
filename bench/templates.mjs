#!/usr/bin/env node
// A short chat rendered over and over in the worker of templates: how much a call costs. MODEL is any folder or GGUF file
// with a chat template, without it the tiny tokenizer of the tests.
//     node bench/templates.mjs [MODEL]
import { fileURLToPath } from 'node:url';
import { Model, Tokenizer } from 'selfedit';

const CALLS = 5000;
const tiny = fileURLToPath(new URL('../test/fixtures/tokenizer/tiny', import.meta.url));
const [path] = process.argv.slice(2);
const tokenizer = path ? (await Model.load(path)).tokenizer : await Tokenizer.fromFolder(tiny);
const messages = [
  { role: 'system', content: 'Answer in one word.' },
  { role: 'user', content: 'Who built the lighthouse of Marrow Point?' },
];

const started = performance.now();
tokenizer.chat(messages);
const first = performance.now() - started;
const times = Array.from({ length: CALLS }, () => {
  const before = performance.now();
  tokenizer.chat(messages);
  return 1000 * (performance.now() - before);
}).sort((a, b) => a - b);
const at = (part) => `${times[Math.floor(part * (CALLS - 1))].toFixed(0)} µs`;
console.log(`first call, with the worker's start: ${first.toFixed(0)} ms`);
console.log(`${CALLS} more: median ${at(0.5)}, 99 % below ${at(0.99)}`);
