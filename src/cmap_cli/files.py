"""Writing files: under a temporary name and renamed, locked, with a full disk said in one sentence."""
