export interface OpenSymbols {
  /** Libraries that the addon names. */
  needed: string[];
  /** Paths of all libraries that were seen, by name. */
  paths: Map<string, string>;
  /** How many symbols it takes from others. */
  checked: number;
  /** Symbols that nobody defines. */
  open: string[];
  /** Selfedit's own among them. */
  own: string[];
}
export function openSymbols(addon: string, libraries: readonly string[]): OpenSymbols;
