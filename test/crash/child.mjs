/** A process that plays a small run, or goes on with it, with a fault: `node child.mjs KIND RUN FAULT`. It says "ready" before. */
import { plan } from './faults.mjs';
import { load, openModel, play } from './small-run.mjs';

const [kind, run, fault] = process.argv.slice(2);
const { se, ...layers } = await load();
const model = await openModel(se);
if (fault !== undefined) plan(layers, JSON.parse(fault));
process.stdout.write('ready\n');
await play(se, model, kind, run);
await model.close();
