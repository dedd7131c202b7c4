# Finds googletest for QUIRE_TESTS: the system's package (libgtest-dev), else the pinned release from upstream.

include(FetchContent)
FetchContent_Declare(
  googletest
  URL https://github.com/google/googletest/archive/refs/tags/v1.14.0.tar.gz
  URL_HASH SHA256=8ad598c73ad796e0d8280b082cebd82a630d73e73cd3c70057938a6501bba5d7
  FIND_PACKAGE_ARGS NAMES GTest)
set(INSTALL_GTEST OFF CACHE BOOL "googletest is for our tests only" FORCE)
FetchContent_MakeAvailable(googletest)
include(GoogleTest)
