/**
 * The processes that work on one run. They go through the same phases in the same order; at each, all arrive before any goes
 * on, and results become the same list everywhere. A rank that does not arrive is named, with the phase.
 */
import { availableParallelism } from 'node:os';
import { type NativeJob, type NativeRanks, native } from '../binding.js';
import { fromNative, isErrorCode, isOverflow, makeError, SelfeditError } from '../errors.js';
import { runSync } from '../native-job.js';
import { decode, encode } from './codec.js';
import type { RankPlace } from './environment.js';
import { balanced, blocks, inOrder } from './shares.js';

export interface JoinOptions {
  /**
   * Seconds after which a rank that gives no sign of life is lost, while the ranks find each other; half as many from then
   * on, when signs of life come. A rank that works long but lives is waited for. 60, or `SELFEDIT_RANKS_TIMEOUT`.
   */
  timeout?: number;
  /** Where the weights are: `cpu` (the ranks talk over Gloo) or `cuda:N` (over NCCL). */
  device?: string;
  signal?: AbortSignal | undefined;
}

/** What ranks cost: seconds and bytes of this rank since the last `takeTraffic`. */
export interface RankTraffic {
  /** Seconds until the last rank had arrived. */
  readonly waited: number;
  /** Seconds within collectives. */
  readonly exchanged: number;
  /** Bytes of results that came from other ranks. */
  readonly gathered: number;
  /** Bytes of gradients that were summed. */
  readonly reduced: number;
  /** Collectives taken. */
  readonly collectives: number;
}

const NOTHING: RankTraffic = { waited: 0, exchanged: 0, gathered: 0, reduced: 0, collectives: 0 };

interface Failure {
  readonly rank: number;
  readonly code: string;
  readonly message: string;
}

export class Ranks {
  readonly place: RankPlace;
  readonly #native: NativeRanks;
  readonly #silence: number;
  readonly #joining: number;
  readonly #beat: number;
  readonly #controller = new AbortController();
  #failure: SelfeditError | undefined;
  #broken: Promise<never>;
  #break: (error: unknown) => void = () => {};
  #sequence = 0;
  #beats = 0;
  #timer: NodeJS.Timeout | undefined;
  #beating: number | undefined;
  #closed = false;
  #traffic: RankTraffic = NOTHING;

  private constructor(place: RankPlace, native: NativeRanks, seconds: number) {
    this.place = place;
    this.#native = native;
    this.#joining = seconds * 1000;
    this.#silence = this.#joining / 2;
    this.#beat = Math.max(this.#joining / 30, 100);
    this.#broken = new Promise<never>((_, reject) => {
      this.#break = reject;
    });
    this.#broken.catch(() => {});
  }

  /**
   * Joins the other ranks: returns when all are there. Errors: `RANK_LOST` naming those that did not come,
   * `RANKS_UNAVAILABLE` where the addon lacks what ranks talk over.
   */
  static async join(place: RankPlace, options: JoinOptions = {}): Promise<Ranks> {
    const seconds = options.timeout ?? timeoutFrom(process.env.SELFEDIT_RANKS_TIMEOUT);
    if (!(seconds > 0 && seconds < 1e6)) {
      throw makeError('OPTION_INVALID', `timeout is ${seconds}; expected seconds above 0`);
    }
    const handle = runSync(() =>
      native().ranks({
        host: place.host,
        port: place.port,
        rank: place.rank,
        world: place.world,
        hostsStore: place.hostsStore,
        prefix: `selfedit/${place.restart}/group`,
        device: options.device ?? 'cpu',
        timeout: Math.ceil(seconds * 1000),
      }),
    );
    const ranks = new Ranks(place, handle, seconds);
    try {
      await ranks.#call(() => handle.open());
      await ranks.#pulse();
      ranks.#timer = setInterval(() => void ranks.#pulse(), ranks.#beat);
      ranks.#timer.unref();
      options.signal?.addEventListener('abort', () => ranks.#onAbort(), { once: true });
      await ranks.arrive('join');
      await ranks.#collective('join', () => handle.connect());
    } catch (error) {
      throw await ranks.fail(error);
    }
    return ranks;
  }

  get rank(): number {
    return this.place.rank;
  }
  get world(): number {
    return this.place.world;
  }
  /** The one rank that writes files and talks. */
  get lead(): boolean {
    return this.place.rank === 0;
  }
  /** `rank 1 of 4`. */
  get name(): string {
    return nameOf(this.place.rank, this.place.world);
  }
  /** Fires when another rank has failed or is lost: work under way is of no use any more. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }
  /** Why the group has ended. */
  get failure(): SelfeditError | undefined {
    return this.#failure;
  }
  /** @internal */
  get handle(): NativeRanks {
    return this.#native;
  }

  /** Threads for each rank of this host, when they share its cores evenly. */
  get threads(): number {
    return Math.max(1, Math.floor(availableParallelism() / this.place.localWorld));
  }

  /** Waits until every rank is at this phase. Errors: `RANK_LOST`, `RANKS_DIVERGED`, the error of a rank that failed. */
  async arrive(phase: string): Promise<void> {
    const { world, rank } = this.place;
    const began = performance.now();
    const sequence = ++this.#sequence;
    await this.#call(() => this.#native.set(0, this.#key(`at/${rank}`), `${sequence} ${phase}`));
    const arrived = await this.#call(() => this.#native.add(0, this.#key(`arrived/${sequence}`), 1));
    const gate = this.#key(`go/${sequence}`);
    if (arrived === world) await this.#call(() => this.#native.set(0, gate, phase));
    else await this.#await(sequence, phase, gate);
    const [agreed] = await this.#call(() => this.#native.get(0, [gate]));
    if (agreed !== phase) {
      throw makeError(
        'RANKS_DIVERGED',
        `${this.name} is at "${phase}", another rank at "${agreed}"; expected all ranks to take the same steps`,
      );
    }
    // All have arrived here, so nobody looks at the gate before any more.
    if (rank === 0 && sequence > 1) {
      for (const name of ['arrived', 'go']) {
        await this.#call(() => this.#native.remove(0, this.#key(`${name}/${sequence - 1}`)));
      }
    }
    this.#count({ waited: (performance.now() - began) / 1000 });
  }

  /** The value of every rank, in the order of the ranks. Values are plain ones (`encode`). */
  async gather<T>(phase: string, value: T): Promise<T[]> {
    const bytes = encode(value);
    await this.arrive(phase);
    const all = await this.#collective(phase, () => this.#native.allGather(bytes));
    this.#count({
      gathered: all.reduce((sum, { length }, rank) => (rank === this.rank ? sum : sum + length), 0),
    });
    return all.map((one) => decode(one) as T);
  }

  /** The value of rank `root`, on all; the others give undefined. */
  async broadcast<T>(phase: string, value: T | undefined, root = 0): Promise<T> {
    const bytes = this.rank === root ? encode(value) : new Uint8Array(0);
    await this.arrive(phase);
    const given = await this.#collective(phase, () => this.#native.broadcast(bytes, root));
    if (this.rank !== root) this.#count({ gathered: given.length });
    return decode(given) as T;
  }

  /** @internal Runs a native collective of this group, when all ranks are there; `bytes` of it are summed. */
  async reduce<T>(phase: string, bytes: number, start: () => NativeJob<T>): Promise<T> {
    await this.arrive(phase);
    this.#count({ reduced: bytes });
    return this.#collective(phase, start);
  }

  /** Tells the other ranks that this one has failed, so that none waits for it. Returns the error with the rank in it. */
  async fail(error: unknown): Promise<SelfeditError> {
    // What others have told is the cause of what happens here afterwards.
    if (this.#failure) return this.#failure;
    const typed = fromNative(error);
    const code = typed instanceof SelfeditError ? typed.code : 'INTERNAL';
    const message = typed.message.startsWith('rank ') ? typed.message : `${this.name}: ${typed.message}`;
    await this.#tell({ rank: this.rank, code, message });
    return this.#end(makeError(code, message, error));
  }

  /** What ranks have cost since the last call. */
  takeTraffic(): RankTraffic {
    const traffic = this.#traffic;
    this.#traffic = NOTHING;
    return traffic;
  }

  /** Leaves; the store's host goes last. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const { world, hostsStore } = this.place;
    try {
      const left = this.#key('left');
      const line = 1;
      await this.#within(this.#native.add(line, left, 1).promise, this.#beat * 3);
      // The others still ask the store; they have seen a failure two beats after it was told.
      for (const end = performance.now() + 4 * this.#beat + 1000; hostsStore && performance.now() < end; ) {
        const [count] = await this.#within(this.#native.get(line, [left]).promise, this.#beat * 3);
        if (Number(count) >= world) break;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    } catch {
      // The store is gone: there is nobody to wait for.
    }
    clearInterval(this.#timer);
    this.#native.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #key(name: string): string {
    return `selfedit/${this.place.restart}/${name}`;
  }

  #count(more: Partial<RankTraffic>): void {
    const sum = { ...this.#traffic };
    for (const [name, value] of Object.entries(more) as [keyof RankTraffic, number][]) sum[name] += value;
    this.#traffic = sum;
  }

  /** A native call that ends when the group does, whatever it hangs in. */
  async #call<T>(start: () => NativeJob<T>): Promise<T> {
    if (this.#failure) throw this.#failure;
    let job: NativeJob<T> | undefined;
    try {
      job = start();
      job.promise.catch(() => {});
      return await Promise.race([job.promise, this.#broken]);
    } catch (error) {
      job?.cancel();
      throw this.#failure ?? fromNative(error);
    }
  }

  async #collective<T>(phase: string, start: () => NativeJob<T>): Promise<T> {
    const began = performance.now();
    try {
      return await this.#call(start);
    } catch (error) {
      if (this.#failure || !(error instanceof SelfeditError && error.code === 'RANK_LOST')) throw error;
      throw await this.#whoLeft(phase, error);
    } finally {
      this.#count({ exchanged: (performance.now() - began) / 1000, collectives: 1 });
    }
  }

  /** Waits for the gate; as long as those who are missing live. */
  async #await(sequence: number, phase: string, gate: string): Promise<void> {
    const silence = sequence === 1 ? this.#joining : this.#silence;
    const heard = new Map<number, { beat: string; time: number }>();
    const began = performance.now();
    for (;;) {
      if (await this.#call(() => this.#native.wait(0, gate, Math.ceil(this.#beat)))) return;
      const { places, beats } = await this.#look();
      const now = performance.now();
      const missing = [...places.keys()].filter(
        (rank) => Number(places[rank]!.split(' ')[0] || 0) < sequence,
      );
      const silent = missing.filter((rank) => {
        const beat = beats[rank]!;
        if (heard.get(rank)?.beat !== beat) heard.set(rank, { beat, time: heard.has(rank) ? now : began });
        return now - heard.get(rank)!.time > silence;
      });
      if (silent.length > 0) throw await this.#lost(silent, places, phase, silence);
    }
  }

  /** Where every rank was last, and its sign of life. */
  async #look(): Promise<{ places: string[]; beats: string[] }> {
    const { world } = this.place;
    const all = [...Array(world).keys()];
    const keys = [
      ...all.map((rank) => this.#key(`at/${rank}`)),
      ...all.map((rank) => this.#key(`beat/${rank}`)),
    ];
    const values = await this.#call(() => this.#native.get(0, keys));
    return { places: values.slice(0, world), beats: values.slice(world) };
  }

  async #lost(silent: readonly number[], places: readonly string[], phase: string, silence: number) {
    const { world } = this.place;
    const who =
      silent.length === 1
        ? nameOf(silent[0]!, world)
        : `ranks ${silent.slice(0, 8).join(', ')}${silent.length > 8 ? ' …' : ''} of ${world}`;
    const last = places[silent[0]!]!.split(' ').slice(1).join(' ');
    const error = makeError(
      'RANK_LOST',
      `${who} did not arrive at "${phase}" within ${seconds(silence)} s of the last sign of life` +
        (last === '' ? '; nothing was heard at all' : `; last seen at "${last}"`),
    );
    await this.#tell({ rank: this.rank, code: error.code, message: error.message });
    return this.#end(error);
  }

  /** A connection between ranks broke within a collective: whoever gives no sign of life is the cause. */
  async #whoLeft(phase: string, cause: SelfeditError): Promise<SelfeditError> {
    const before = await this.#look();
    await Promise.race([new Promise((resolve) => setTimeout(resolve, this.#beat * 3)), this.#broken]);
    const after = await this.#look();
    const gone = [...before.beats.keys()].filter((rank) => before.beats[rank] === after.beats[rank]);
    const who = gone.length > 0 ? gone.map((rank) => nameOf(rank, this.world)).join(', ') : 'a rank';
    const error = makeError('RANK_LOST', `${who} left during "${phase}": ${cause.message}`, cause);
    await this.#tell({ rank: this.rank, code: error.code, message: error.message });
    return this.#end(error);
  }

  /** Writes down that the group has ended; the first word counts. */
  async #tell(failure: Failure): Promise<void> {
    try {
      const first = await this.#within(this.#native.add(1, this.#key('failures'), 1).promise, this.#beat * 3);
      if (first > 1) return;
      const told = this.#native.set(1, this.#key('failure'), JSON.stringify(failure));
      await this.#within(told.promise, this.#beat * 3);
    } catch {
      // Without a store the others notice by themselves.
    }
  }

  async #within<T>(work: Promise<T>, ms: number): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error('the store does not answer')), ms);
    });
    try {
      return await Promise.race([work, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #end(error: SelfeditError): SelfeditError {
    this.#failure ??= error;
    this.#break(this.#failure);
    this.#controller.abort(this.#failure);
    return this.#failure;
  }

  /** Gives a sign of life and looks whether another rank has failed. */
  async #pulse(): Promise<void> {
    if (this.#failure || this.#closed) return;
    const now = performance.now();
    if (this.#beating !== undefined) {
      if (now - this.#beating > this.#silence) {
        const { host, port } = this.place;
        const asked = `the store at ${host}:${port} (rank 0, or torchrun's agent)`;
        this.#end(
          makeError('RANK_LOST', `${this.name}: ${asked} has not answered for ${seconds(this.#silence)} s`),
        );
      }
      return;
    }
    this.#beating = now;
    try {
      await this.#native.set(1, this.#key(`beat/${this.rank}`), String(++this.#beats)).promise;
      const [failure] = await this.#native.get(1, [this.#key('failure')]).promise;
      if (failure) {
        const { code, message } = JSON.parse(failure) as Failure;
        this.#end(makeError(isErrorCode(code) ? code : 'INTERNAL', message));
      }
    } catch (error) {
      if (!this.#closed) {
        this.#end(makeError('RANK_LOST', `${this.name}: ${fromNative(error).message}`, error));
      }
    } finally {
      this.#beating = undefined;
    }
  }

  #onAbort(): void {
    if (this.#closed) return;
    void this.fail(makeError('ABORTED', `${this.name}: interrupted`));
  }
}

/**
 * @internal Each rank works on its share of `items`, all get all results, in order. `size` says how much work an item is; without
 * it, neighbours stay together. Alone, or without ranks: everything here.
 */
export async function shared<T, R>(
  ranks: Ranks | undefined,
  phase: string,
  items: readonly T[],
  work: (mine: readonly T[]) => Promise<readonly R[]>,
  size?: (item: T) => number,
): Promise<R[]> {
  if (!ranks || ranks.world === 1) return [...(await work(items))];
  const owners = size ? balanced(items.map(size), ranks.world) : blocks(items.length, ranks.world);
  const mine = items.filter((_, index) => owners[index] === ranks.rank);
  // What one rank cannot compute, none can: all go on, or fail, in the same way.
  const own = await (mine.length > 0 ? work(mine) : Promise.resolve([])).then(
    (results) => ({ results: [...results] }),
    (error: unknown) => {
      if (!isOverflow(error)) throw error;
      return { results: [] as R[], overflow: (error as Error).message };
    },
  );
  const all = await ranks.gather<{ results: R[]; overflow?: string }>(phase, own);
  const failed = all.find(({ overflow }) => overflow !== undefined);
  if (failed) throw makeError('LOSS_NOT_FINITE', failed.overflow!);
  return inOrder(
    all.map(({ results }) => results),
    owners,
  );
}

function nameOf(rank: number, world: number): string {
  return `rank ${rank} of ${world}`;
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(ms < 10_000 ? 1 : 0);
}

function timeoutFrom(text: string | undefined): number {
  if (text === undefined || text === '') return 60;
  const value = Number(text);
  if (value > 0 && value < 1e6) return value;
  throw makeError('RANKS_INVALID', `SELFEDIT_RANKS_TIMEOUT is "${text}"; expected seconds above 0`);
}
