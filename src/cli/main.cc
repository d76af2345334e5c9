// The `fairway` program.
#include "cli/cli.h"

int main(int argc, char** argv) {
  return fairway::cli::run_cli(argc, argv);
}
