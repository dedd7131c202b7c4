# Flags that every room shares. ISA flags are set per file, where the file is listed.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)

# Results must not depend on which instruction set a file was compiled for, so the compiler may not fuse by itself.
add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wextra> $<$<COMPILE_LANGUAGE:CXX>:-Wpedantic>
                    $<$<COMPILE_LANGUAGE:CXX>:-Wno-missing-field-initializers> $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # False alarms of g++ 12 on std::string's operator+ (its bug 105651).
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(QUIRE_WERROR)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-Werror> "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Werror all-warnings>")
endif()
if(QUIRE_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${QUIRE_SANITIZE}> $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all>
                      $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer> $<$<COMPILE_LANGUAGE:CXX>:-g>)
  add_link_options(-fsanitize=${QUIRE_SANITIZE})
endif()

# quire_room(text SOURCES a.cc b.cc): the objects of one room. All rooms are joined into the library `quire`; a test may
# link single rooms.
function(quire_room name)
  cmake_parse_arguments(ROOM "" "" "SOURCES" ${ARGN})
  if(NOT ROOM_SOURCES)
    add_library(quire_${name} INTERFACE)
    return()
  endif()
  add_library(quire_${name} OBJECT ${ROOM_SOURCES})
  target_include_directories(quire_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/cpp> $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/cpp/include>)
  set_property(GLOBAL APPEND PROPERTY QUIRE_ROOMS quire_${name})
endfunction()
