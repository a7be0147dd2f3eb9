/**
 * llama.cpp with an exported GGUF LoRA on an F32 GGUF of the same base, against what selfedit generated.
 *
 * node-llama-cpp is taken from the working directory: `npm install node-llama-cpp` in a folder outside this one. EXPECTED holds lines
 * {"prompt": [ids], "tokens": [greedy ids]}; LORA may be - for none. Prints how many rows are equal; exits 1 unless all are.
 *
 * Run: node …/scripts/check-exports/llama-cpp.mjs BASE.gguf LORA.gguf EXPECTED.jsonl
 */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const [base, lora, expected] = process.argv.slice(2);
const { resolve: find } = createRequire(join(process.cwd(), 'package.json'));
const { getLlama } = await import(pathToFileURL(find('node-llama-cpp')).href);

// Its loading holds no handle that keeps Node alive.
setInterval(() => {}, 1000);
const llama = await getLlama({ build: 'never', gpu: false, logLevel: 'error', maxThreads: 1 });
const model = await llama.loadModel({ modelPath: resolve(base) });
const adapters = lora === '-' ? [] : [{ filePath: resolve(lora), scale: 1 }];
const rows = (await readFile(expected, 'utf8')).trim().split('\n').map(JSON.parse);
let equal = 0;
for (const [index, { prompt, tokens }] of rows.entries()) {
  const context = await model.createContext({
    contextSize: 512,
    flashAttention: false,
    // Keys and values in float32; llama.cpp's default rounds them to float16.
    experimentalKvCacheKeyType: 'F32',
    experimentalKvCacheValueType: 'F32',
    ...(adapters.length > 0 ? { lora: { adapters } } : {}),
  });
  const found = [];
  for await (const token of context.getSequence().evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    found.push(token);
    if (found.length >= tokens.length) break;
  }
  await context.dispose();
  const same = found.length === tokens.length && found.every((token, at) => token === tokens[at]);
  if (same) equal++;
  else console.log(`row ${index}: llama.cpp ${JSON.stringify(found)}; selfedit ${JSON.stringify(tokens)}`);
}
console.log(
  `${equal} of ${rows.length} rows equal, ${rows.reduce((sum, { tokens }) => sum + tokens.length, 0)} tokens`,
);
process.exit(equal === rows.length && equal > 0 ? 0 : 1);
