# Compile options shared by every target, and the instruction-set flags of kernel files.
include_guard()

function(fairway_compile_options target)
  # No contraction: a * b + c is two roundings unless the code says fma, so every build gives the same bits.
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -ffp-contract=off)
  # GCC 12 sees overlapping copies inside std::string's operator+ where there are none (GCC bug 105651).
  target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)
  if(FAIRWAY_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(FAIRWAY_SANITIZE)
    target_compile_options(${target} PUBLIC -fsanitize=${FAIRWAY_SANITIZE} -fno-sanitize-recover=all
                                            -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${FAIRWAY_SANITIZE})
  endif()
endfunction()

# A file named *_avx2.cc, *_avxvnni.cc, *_gfni.cc (with AVX-VNNI), *_avx512.cc or *_avx512fp16.cc is compiled for that
# instruction set and entered only after a CPU check. Such files keep everything they define in a namespace of their
# own, so that no inline function of theirs can stand in for a baseline one at link time.
function(fairway_isa_flags)
  foreach(source IN LISTS ARGN)
    if(source MATCHES "_avx2\\.cc$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    elseif(source MATCHES "_(avxvnni|gfni)\\.cc$")
      set(flags -mavx2 -mfma -mf16c -mavxvnni)
      if(source MATCHES "_gfni\\.cc$")
        list(APPEND flags -mgfni)
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
    elseif(source MATCHES "_avx512(fp16)?\\.cc$")
      set(flags -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vnni
                -mprefer-vector-width=512)
      if(source MATCHES "fp16\\.cc$")
        list(APPEND flags -mavx512fp16)
      endif()
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${flags}")
    endif()
    # Unrolled vector code with checks of undefined behaviour takes minutes to compile; the reference has them.
    if(FAIRWAY_SANITIZE MATCHES "undefined" AND source MATCHES "_(avx2|avxvnni|gfni|avx512|avx512fp16)\\.cc$")
      set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS "-fno-sanitize=undefined")
    endif()
  endforeach()
endfunction()
