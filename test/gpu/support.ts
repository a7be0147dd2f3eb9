import { native } from '../../lib/binding.js';

/** Why there is no GPU here, in words; undefined when there is one. */
export function whyNoGpu(): string | undefined {
  return native().info().whyNoGpu || undefined;
}
