/** Finds the directives in the text of an edit and holds them against their bounds. */
import { z } from 'zod';
import type { ClosedRange, DirectiveBounds, DirectiveScope, Directives } from './directives.js';

/** The directives of a text and the text without them; or why they cannot be followed. */
export type DirectiveReading =
  | { readonly text: string; readonly directives?: Directives }
  | { readonly invalid: 'directives-not-json' | 'directives-out-of-bounds'; readonly detail: string };

/** Longest object that is read. */
const LONGEST = 4096;

/**
 * Takes the directives out of a text: the object that begins at the first line which starts with `{`, with the code
 * fence around it if there is one. The published form for few-shot tasks (`data_generation` and `training`) is read
 * as well. Linear in the length of the text.
 */
export function readDirectives(
  text: string,
  bounds: DirectiveBounds,
  scope: DirectiveScope = {},
): DirectiveReading {
  // All four characters that end a line for `^`: a run of any of them is tried once each, not again and again.
  const start = /^[^\S\n\r\u2028\u2029]*\{/m.exec(text)?.index;
  if (start === undefined) {
    if (!bounds.required) return { text };
    return notJson('the edit has no directives; expected a JSON object on a line of its own');
  }
  const end = endOfObject(text, start);
  if (end === undefined) {
    const within = text.length - start > LONGEST ? ` within ${LONGEST} characters` : '';
    return notJson(`the object does not end${within}: ${brief(text.slice(start, start + 100))}`);
  }
  let value: object;
  try {
    // It begins with a brace: an object.
    value = JSON.parse(text.slice(start, end)) as object;
  } catch {
    return notJson(`${brief(text.slice(start, end))} is not JSON`);
  }
  const before = text.slice(0, start).replace(/```(?:json)?[^\S\n]*\n$/, '');
  const after = text.slice(end).replace(/^[^\S\n]*\n```/, '');
  const checked = check(value, bounds, scope);
  if ('detail' in checked) return { invalid: 'directives-out-of-bounds', detail: checked.detail };
  return { text: `${before.trimEnd()}\n${after.trimStart()}`.trim(), directives: checked.directives };
}

function check(
  value: object,
  bounds: DirectiveBounds,
  scope: DirectiveScope,
): { directives: Directives } | { detail: string } {
  let own = value;
  if ('data_generation' in value) {
    const published = PUBLISHED.safeParse(renamed(value));
    if (!published.success) return { detail: describe(published.error.issues[0]!, renamed(value)) };
    own = published.data;
  }
  const checked = directiveSchema(bounds, scope).safeParse(own);
  if (!checked.success) return { detail: describe(checked.error.issues[0]!, own) };
  const given = Object.entries(checked.data).filter(([, choice]) => choice !== undefined);
  return { directives: Object.fromEntries(given) as Directives };
}

// Naming a thing twice changes nothing: a list of repeated augmentations would escape the bound of the epochs.
function distinct<T>(items: readonly T[]): T[] {
  return [...new Set(items)];
}

/** The schema that directives are held against. */
function directiveSchema(bounds: DirectiveBounds, scope: DirectiveScope = {}) {
  const between = ([least, most]: ClosedRange) => `a number from ${least} to ${most}`;
  const whole = ([least, most]: ClosedRange) =>
    z
      .int(`whole: ${between([least, most])}`)
      .min(least, between([least, most]))
      .max(most, between([least, most]));
  const oneOf = <T extends string>(names: readonly T[]) => {
    const message = names.length > 0 ? `one of ${names.join(', ')}` : 'nothing: none is allowed';
    return z
      .string(message)
      .refine((name): name is T => (names as readonly string[]).includes(name), message);
  };
  const lastLayer = (scope.layers ?? Number.POSITIVE_INFINITY) - 1;
  const offered = scope.augmentations ?? bounds.augmentations ?? [];
  const augmentations = bounds.augmentations?.filter((name) => offered.includes(name)) ?? offered;
  const [least, most] = bounds.learningRate;
  const list = 'a list that is not empty';
  return z
    .strictObject({
      learningRate: z
        .number(between([least, most]))
        .min(least, between([least, most]))
        .max(most, between([least, most])),
      epochs: whole(bounds.epochs),
      rank: whole(bounds.rank),
      targets: z.array(oneOf(bounds.targets), list).min(1, list).transform(distinct),
      layers: z
        .array(
          whole(bounds.layers ? [bounds.layers[0], Math.min(bounds.layers[1], lastLayer)] : [0, lastLayer]),
          list,
        )
        .min(1, list)
        .transform(distinct),
      loss: oneOf(bounds.loss),
      augmentations: z.array(oneOf(augmentations), 'a list').transform(distinct),
    })
    .partial();
}

/** The published form of the few-shot domain, as its own names for the same choices. */
const SWITCH = z.boolean('true or false').optional();
const STRATEGIES = { train_using_all_tokens: 'all', train_using_output_tokens: 'output' } as const;
const training = z.strictObject({
  strategy: z.enum(
    Object.keys(STRATEGIES) as (keyof typeof STRATEGIES)[],
    Object.keys(STRATEGIES).join(' or '),
  ),
  learning_rate: z.number('a number'),
  num_train_epochs: z.number('a number'),
});
const data = z.strictObject({
  use_basic_augmentations: SWITCH,
  use_size_augmentations: SWITCH,
  use_chain_augmentations: SWITCH,
  use_repeat_augmentations: SWITCH,
});
const PUBLISHED = z
  .strictObject({ data_generation: data, training })
  .transform(({ data_generation, training: { strategy, learning_rate, num_train_epochs } }) => ({
    learningRate: learning_rate,
    epochs: num_train_epochs,
    loss: STRATEGIES[strategy],
    augmentations: Object.entries(data_generation).flatMap(([name, on]) =>
      on ? [name.replace(/^use_|_augmentations$/g, '')] : [],
    ),
  }));

// The paper calls `training_config` what the code calls `training`.
function renamed(value: object): object {
  return Object.fromEntries(
    Object.entries(value).map(([name, part]) => [name === 'training_config' ? 'training' : name, part]),
  );
}

// Behind the brace that closes the object; undefined when that does not come in time.
function endOfObject(text: string, start: number): number | undefined {
  let depth = 0;
  let quoted = false;
  for (let at = start; at < Math.min(text.length, start + LONGEST); at++) {
    const character = text[at];
    if (quoted && character === '\\') at++;
    else if (character === '"') quoted = !quoted;
    else if (!quoted && character === '{') depth++;
    else if (!quoted && character === '}' && --depth === 0) return at + 1;
  }
  return undefined;
}

function notJson(detail: string): DirectiveReading {
  return { invalid: 'directives-not-json', detail };
}

function brief(value: unknown): string {
  const quoted = JSON.stringify(value);
  return quoted.length > 80 ? `${quoted.slice(0, 80)}…` : quoted;
}

function describe(issue: z.core.$ZodIssue, value: unknown): string {
  const path = issue.path.map(String);
  if (issue.code === 'unrecognized_keys') {
    return `${brief([...path, issue.keys[0]].join('.'))} is not a directive`;
  }
  const found = issue.path.reduce<unknown>(
    (part, key) => (part as Record<PropertyKey, unknown> | null)?.[key],
    value,
  );
  return `${path.join('.')} is ${found === undefined ? 'missing' : brief(found)}; expected ${issue.message}`;
}
