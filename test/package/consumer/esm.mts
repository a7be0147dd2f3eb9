// Type-checked only: what a user's ES module sees.
import { type AdaptOptions, type DoctorReport, doctor, Model, SelfeditError } from 'selfedit';

const report: DoctorReport = await doctor();
const options: Partial<AdaptOptions> = { rank: 8 };
const load: (path: string) => Promise<Model> = Model.load;
// @ts-expect-error options are typed
const wrong: Partial<AdaptOptions> = { rank: 'eight' };
console.log(report.ok, options, load, wrong, SelfeditError);
