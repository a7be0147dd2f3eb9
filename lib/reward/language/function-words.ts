/** Function words of English: they carry grammar, not an answer. A closed class, listed by kind. */

const LISTS = {
  articles: 'a an the',
  pronouns:
    'i me my mine myself we us our ours ourselves you your yours yourself he him his himself she her hers herself it its itself they them their theirs themselves this that these those who whom whose which what one ones someone something anything such same',
  auxiliaries:
    'am is are was were be been being has have had having do does did doing can could may might must shall should will would',
  prepositions:
    'of in on at by for with about against between into through during before after above below to from up down out off over under as than within without upon among toward towards across along around onto via per',
  conjunctions:
    'and or but nor so yet if because while although though whereas since until unless when where whether how why',
  adverbs:
    'also too very just only then there here now again further once still even more most much many other some any all both each few own quite rather often usually generally typically mainly primarily',
};

const FUNCTION_WORDS = words(Object.values(LISTS).join(' '));

const AUXILIARIES = words(LISTS.auxiliaries);

export function isAuxiliary(text: string): boolean {
  return AUXILIARIES.has(text);
}

export function isFunctionWord(text: string): boolean {
  return FUNCTION_WORDS.has(text);
}

/** Words that deny what stands in their clause. Apostrophes are folded away before they are looked up. */
export const NEGATIONS = words(
  `not no never none neither nor without unlike cannot cant dont doesnt didnt isnt arent wasnt werent wont wouldnt
   hasnt havent hadnt couldnt shouldnt`,
);

/** Words that say by themselves that something is missing: an answer made of them is well put by a negation. */
export const ABSENCES = words(
  'lack lacks lacked lacking absent absence fail fails failed failure unable unlimited refuse refuses refused refusal',
);

/** Words that turn an exact number or date into a bound or an estimate. */
export const BOUNDS = words(
  `after before by until till since over under above below exceeding almost nearly around about approximately roughly
   circa least most than late early mid`,
);

export const MONTHS = words(
  'january february march april may june july august september october november december',
);

function words(list: string): ReadonlySet<string> {
  return new Set(list.trim().split(/\s+/));
}

/** What may stand before a surname without making it another person's. */
export const TITLES = words(
  `mr mrs ms miss dr sir lord lady king queen prince princess emperor empress president minister secretary senator
   governor mayor judge justice general admiral colonel captain major professor pope saint st`,
);
