# Whether the CUDA backend is built, and how files in folders named cuda are compiled. Sets FAIRWAY_HAS_CUDA.
include_guard()

set(FAIRWAY_CUDA OFF CACHE STRING "Build the CUDA backend: ON, OFF, or AUTO for: if there is a CUDA toolkit")
set_property(CACHE FAIRWAY_CUDA PROPERTY STRINGS OFF AUTO ON)
set(FAIRWAY_CUDA_ARCHITECTURES "80-real;89-real;90a-real;100-real" CACHE STRING
    "GPU generations to compile for: Ampere, Ada, Hopper with its own instructions, Blackwell. One compiles fastest")
# An entry 80-on-90 is the source text of generation 8.0 as machine code for 9.0, to be tested where only that one is.

set(FAIRWAY_HAS_CUDA FALSE)
if(NOT FAIRWAY_CUDA MATCHES "^(ON|OFF|AUTO)$")
  message(FATAL_ERROR "FAIRWAY_CUDA is '${FAIRWAY_CUDA}'; expected ON, OFF or AUTO")
endif()
if(FAIRWAY_CUDA)
  include(CheckLanguage)
  string(REGEX REPLACE "[0-9]+-on-([0-9]+)" "\\1-real" CMAKE_CUDA_ARCHITECTURES "${FAIRWAY_CUDA_ARCHITECTURES}")
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit 12.8 REQUIRED)  # the first that compiles for sm_100
    set(CMAKE_CUDA_STANDARD 20)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(CMAKE_CUDA_EXTENSIONS OFF)
    if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has it
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    if(FAIRWAY_CCACHE)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${FAIRWAY_CCACHE})
    endif()
    set(FAIRWAY_HAS_CUDA TRUE)
    message(STATUS "CUDA backend: toolkit ${CUDAToolkit_VERSION}, for ${FAIRWAY_CUDA_ARCHITECTURES}")
  elseif(FAIRWAY_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FAIRWAY_CUDA is ON and no nvcc was found. Put it into PATH or name it in the environment variable "
                        "CUDACXX, or configure with -DFAIRWAY_CUDA=OFF")
  else()
    message(STATUS "CUDA backend: not built, no nvcc was found")
  endif()
endif()

# fairway_cuda_objects(NAME [KERNELS] SOURCE...): an object library of .cc and .cu files that include the toolkit's headers.
# KERNELS: those of the library. They differ from others in two things:
# - The compiler contracts a * b + c: their results are `bounded`, they are compared with double precision, and what was
#   measured was compiled so.
# - Spilled registers are no warning. A kernel that has two CTAs on an SM gets 96 registers a thread, which for some is a
#   little less than they want. None spills with nvcc 13.0 on sm_90a; other generations have a few that do, of 8 to 48
#   bytes.
function(fairway_cuda_objects name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "KERNELS" "" "")
  add_library(${name} OBJECT ${arg_UNPARSED_ARGUMENTS})
  set(targets ${FAIRWAY_CUDA_ARCHITECTURES})
  set(crossed ${FAIRWAY_CUDA_ARCHITECTURES})
  list(FILTER targets EXCLUDE REGEX "-on-")
  list(FILTER crossed INCLUDE REGEX "-on-")
  list(TRANSFORM crossed REPLACE "^([0-9]+)-on-([0-9]+)$" "-gencode=arch=compute_\\1,code=sm_\\2")
  if(NOT targets)
    set(targets OFF)
  endif()
  set(arithmetic -fmad=false -Xptxas=-warn-spills)  # as on the host: two roundings unless the code says fma
  if(arg_KERNELS)
    set(arithmetic -fmad=true)
  endif()
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_ARCHITECTURES "${targets}"
                                           CUDA_RUNTIME_LIBRARY Static)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
  target_include_directories(${name} SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(${name} PRIVATE fmt::fmt)
  set(cxx -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -ffp-contract=off -fno-semantic-interposition
          $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
  # Line numbers for profilers. -Wconversion is left out: the code that nvcc generates does not pass it.
  set(cuda ${crossed} ${arithmetic} -lineinfo -Xcompiler=-Wall,-Wextra,-Wshadow,-ffp-contract=off)
  if(FAIRWAY_WERROR)
    list(APPEND cxx -Werror)
    list(APPEND cuda -Werror=all-warnings -Xcompiler=-Werror)
  endif()
  target_compile_options(${name} PRIVATE "$<$<COMPILE_LANGUAGE:CXX>:${cxx}>" "$<$<COMPILE_LANGUAGE:CUDA>:${cuda}>")
  fairway_unity(${name})
endfunction()

# Adds what stands in src/**/cuda/ to the library. The runtime is linked statically: it looks for the driver when it is
# first used, so that one program starts with and without one.
function(fairway_add_cuda_sources library)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*.cc ${PROJECT_SOURCE_DIR}/src/*.cu)
  list(FILTER sources INCLUDE REGEX "/cuda/")
  set(kernels ${sources})
  list(FILTER kernels INCLUDE REGEX "/kernels/[^/]*/cuda/[^/]*\\.cu$")
  list(REMOVE_ITEM sources ${kernels})
  string(REPLACE ";" "," architectures "${FAIRWAY_CUDA_ARCHITECTURES}")
  set_source_files_properties(${PROJECT_SOURCE_DIR}/src/backend/cuda/device.cc PROPERTIES
                              COMPILE_DEFINITIONS FAIRWAY_CUDA_ARCHITECTURES="${architectures}")
  fairway_cuda_objects(fairway_cuda_objects ${sources})
  fairway_cuda_objects(fairway_cuda_kernels KERNELS ${kernels})
  target_sources(${library} PRIVATE $<TARGET_OBJECTS:fairway_cuda_objects> $<TARGET_OBJECTS:fairway_cuda_kernels>)
  # Only for linking: with other include folders the other files could not be shared with builds without CUDA (ccache).
  target_link_libraries(${library} INTERFACE $<LINK_ONLY:CUDA::cudart_static>)
endfunction()

# A program that can be moved to another machine: it looks for shared libraries in the folder lib beside itself first,
# where scripts/build-cuda puts them. The old kind of search path, because the new one does not hold for the libraries
# that libraries need.
function(fairway_portable_program target)
  set_target_properties(${target} PROPERTIES BUILD_RPATH "$ORIGIN/lib" LINKER_LANGUAGE CXX)
  target_link_options(${target} PRIVATE -Wl,--as-needed -Wl,--disable-new-dtags)
endfunction()
