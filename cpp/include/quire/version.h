#pragma once

/// The single version number; CMake, pyproject.toml and Python read it from here.
#define QUIRE_VERSION "0.1.0"
