// Type-checked only: what a user's CommonJS module sees.
import selfedit = require('selfedit');

const report: Promise<selfedit.DoctorReport> = selfedit.doctor();
// @ts-expect-error there is no such export
selfedit.nothing();
console.log(report, selfedit.Model.load);
