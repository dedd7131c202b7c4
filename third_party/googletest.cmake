# Finds googletest for QUIRE_TESTS: the system's package.
find_package(GTest 1.12 QUIET)
if(NOT GTest_FOUND)
  message(FATAL_ERROR "googletest >= 1.12 is missing: install libgtest-dev, or configure with -DQUIRE_TESTS=OFF")
endif()
include(GoogleTest)
