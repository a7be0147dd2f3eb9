// Child of load.mjs: the peak memory of loading a model. Prints one line of JSON.
import { doctor, Model } from 'selfedit';
import { residentBytes } from './process-memory.mjs';

const { path, dtype } = JSON.parse(process.argv[2]);
await doctor(); // the addon and libtorch are not what is counted
const before = residentBytes().now;
await Model.load(path, { dtype });
console.log(JSON.stringify({ peak: residentBytes().peak - before, process: before }));
process.exit(0);
