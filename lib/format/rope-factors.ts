/**
 * Divisors of the rotary frequencies θ^(−2j/d), j from 0 to d/2 − 1, for each kind of scaling, as transformers'
 * modeling_rope_utils computes them.
 */
import type { RopeScaling } from '../binding.js';

/**
 * Llama 3: long wavelengths are divided by `factor`, short ones not, those between in part. headDim / 2 values;
 * llama.cpp stores them in `rope_freqs.weight`.
 */
export function llama3Factors(theta: number, headDim: number, scaling: RopeScaling): Float64Array {
  const { factor, lowFreqFactor = 1, highFreqFactor = 4, originalMaxPositions = 8192 } = scaling;
  return Float64Array.from({ length: headDim / 2 }, (_, i) => {
    const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim);
    if (wavelength < originalMaxPositions / highFreqFactor) return 1;
    if (wavelength > originalMaxPositions / lowFreqFactor) return factor;
    const smooth = (originalMaxPositions / wavelength - lowFreqFactor) / (highFreqFactor - lowFreqFactor);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

export interface YarnSettings {
  factor: number;
  originalMaxPositions: number;
  /** Turns within the original length from which a frequency is kept, and up to which it is divided by `factor`. */
  betaFast: number;
  betaSlow: number;
  /** The bounds between the two are whole dimensions. */
  truncate: boolean;
  /** Of the sines and cosines; by default what the paper gives for `factor`. */
  attentionFactor?: number;
}

/** YaRN (arXiv 2309.00071): divisors that grow linearly with the dimension from 1 to `factor`. */
export function yarnScaling(theta: number, headDim: number, settings: YarnSettings): RopeScaling {
  const { factor, originalMaxPositions, truncate } = settings;
  const dimensionOf = (turns: number): number =>
    (headDim * Math.log(originalMaxPositions / (turns * 2 * Math.PI))) / (2 * Math.log(theta));
  const first = dimensionOf(settings.betaFast);
  const last = dimensionOf(settings.betaSlow);
  const low = Math.max(truncate ? Math.floor(first) : first, 0);
  const high = Math.min(truncate ? Math.ceil(last) : last, headDim - 1);
  const width = high === low ? 0.001 : high - low;
  const factors = Array.from({ length: headDim / 2 }, (_, j) => {
    const divided = Math.min(Math.max((j - low) / width, 0), 1);
    return 1 / (divided / factor + 1 - divided);
  });
  const attentionFactor = settings.attentionFactor ?? yarnMagnitude(factor, 1);
  return { type: 'yarn', factor, originalMaxPositions, factors, attentionFactor };
}

/** Factor of the sines and cosines that makes up for the flatter attention of longer contexts. */
export function yarnMagnitude(factor: number, weight: number): number {
  return factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
}

/** LongRoPE (arXiv 2402.13753): its factor of sines and cosines for a context `factor` times the original. */
export function longropeMagnitude(factor: number, originalMaxPositions: number): number {
  return factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositions));
}
