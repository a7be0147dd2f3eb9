/** Which modules a configuration chooses, with what rank and scale: PEFT's own answers (scripts/fixtures/peft_choices.py). */
import { describe, expect, it } from 'vitest';
import { fileModules } from '../../lib/format/file-modules.js';
import { peftTargets } from '../../lib/format/peft-config.js';
import type { Model } from '../../lib/index.js';
import { readJson } from '../support/fixtures.js';
import { failureOf, tinyModel } from '../support/tiny.js';

interface Case {
  model: string;
  config: Record<string, unknown>;
  kinds: [rank: number, scale: number][] | null;
  /** A letter of `kinds` or a dot for each module; null where PEFT refuses the configuration. */
  chosen: string | null;
}
const { models, cases } = readJson<{ models: Record<string, string[]>; cases: Case[] }>('peft-choices.json');

/** The answer to a configuration in the words of the fixture. */
function choose(model: Model, { model: name, config }: Case): Pick<Case, 'kinds' | 'chosen'> {
  const text = JSON.stringify({ peft_type: 'LORA', r: 4, lora_alpha: 8, ...config });
  const targets = peftTargets(text, 'adapter_config.json', fileModules(model));
  const byName = new Map(targets.map(({ module, rank, scale }) => [module.name, [rank, scale] as const]));
  const kinds: [number, number][] = [];
  const letters = models[name]!.map((module) => {
    const value = byName.get(module);
    if (!value) return '.';
    const known = kinds.findIndex(([rank, scale]) => rank === value[0] && scale === value[1]);
    if (known < 0) kinds.push([...value]);
    return String.fromCharCode(97 + (known < 0 ? kinds.length - 1 : known));
  });
  return { kinds, chosen: letters.join('') };
}

describe.each(Object.keys(models))('a configuration for %s', (name) => {
  it('chooses what PEFT chooses, to the bit of the scale, and is refused where PEFT refuses it', async () => {
    const sizes = {
      layers: 12,
      vocabSize: 32,
      hiddenSize: 8,
      intermediateSize: 12,
      heads: 2,
      kvHeads: 1,
      headDim: 4,
    };
    await using model = await tinyModel({}, { ...sizes, architecture: name });
    expect(
      fileModules(model)
        .map((module) => module.name)
        .sort(),
    ).toEqual(models[name]!.toSorted());
    const own = cases.filter((each) => each.model === name);
    expect(own.length).toBeGreaterThan(4);
    for (const each of own) {
      const { config, kinds, chosen } = each;
      if (chosen === null) {
        const error = await failureOf(() => choose(model, each));
        expect(['FILE_FORMAT', 'TARGET_UNKNOWN']).toContain(error.code);
      } else expect({ config, ...choose(model, each) }).toEqual({ config, kinds, chosen });
    }
  });
});
