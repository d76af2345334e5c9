# Which files of a room can be compiled together, so that headers are read, and their templates compiled, once for several
# files. scripts/check-tidy goes by these groups. Not for a developer's builds, where a change of one file would compile
# its neighbours too, and never for the preset release, whose files show that each includes what it needs.
include_guard()

option(FAIRWAY_UNITY "Compile files of a room together" OFF)
set(FAIRWAY_UNITY_FILES 12)  # at most; two processors stay evenly busy

# The names that a file declares at the beginning of a line: what two files in one compilation must not have in common,
# though each has it in an anonymous namespace.
function(fairway_declared_names file names)
  file(READ ${file} text)
  # Characters that CMake's lists would take as their own.
  string(REPLACE "[" "(" text "${text}")
  string(REPLACE "]" ")" text "${text}")
  string(REPLACE ";" "@" text "${text}")
  string(REGEX MATCHALL "\n(template <[^\n]*> )?(struct|class|enum class|enum) [A-Za-z0-9_]+ *[{:]" types "${text}")
  string(REGEX MATCHALL "\n[A-Za-z][^\n(={@]*[ *&>][A-Za-z0-9_]+( =|[({@])" others "${text}")
  list(TRANSFORM types REPLACE "^.* ([A-Za-z0-9_]+) *[{:]$" "\\1")
  list(FILTER others EXCLUDE REGEX "\n(using|namespace) ")  # the same alias may stand there twice
  list(TRANSFORM others REPLACE "^.*[ *&>]([A-Za-z0-9_]+)( =|[({@])$" "\\1")
  set(found ${types} ${others})
  list(REMOVE_DUPLICATES found)
  set(${names} ${found} PARENT_SCOPE)
endfunction()

# fairway_unity(TARGET): every file goes into the first group of its room that is not full and has none of its names. Files
# with options of their own, such as those for one instruction set, stay alone (CMake sees to it).
function(fairway_unity target)
  if(NOT FAIRWAY_UNITY)
    return()
  endif()
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX "\\.cc$")
  foreach(source IN LISTS sources)
    cmake_path(ABSOLUTE_PATH source NORMALIZE OUTPUT_VARIABLE path)
    cmake_path(RELATIVE_PATH path BASE_DIRECTORY ${PROJECT_SOURCE_DIR} OUTPUT_VARIABLE room)
    string(REGEX REPLACE "^([^/]*)/([^/]*)/.*" "\\1_\\2" room "${room}")
    fairway_declared_names(${path} names)
    set(group 0)
    set(fits FALSE)
    while(NOT fits)
      math(EXPR group "${group} + 1")
      set(together ${names_${room}_${group}})
      list(APPEND together ${names})
      list(LENGTH together expected)
      list(REMOVE_DUPLICATES together)
      list(LENGTH together distinct)
      if(distinct EQUAL expected AND NOT files_${room}_${group} GREATER_EQUAL ${FAIRWAY_UNITY_FILES})
        set(fits TRUE)
      endif()
    endwhile()
    set(names_${room}_${group} ${together})
    math(EXPR files_${room}_${group} "0${files_${room}_${group}} + 1")
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${room}_${group})
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()
