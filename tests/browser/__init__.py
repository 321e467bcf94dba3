"""One home with two models for all tests of this folder: the package is the scope of its fixtures."""
