"""Events in, ratings table out: contract, validation, quarantine rules."""
