"""The refiner: noise tables, network, samplers, and the model that ties them together."""
