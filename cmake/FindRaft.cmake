# libraft as scripts/deps.sh built it: a fixed version by path, so that Debian 12's own libraft (which loses
# committed writes) can never be taken by mistake.
set(Raft_ROOT "${DUNLIN_DEPS}/raft-0.22.1")
find_path(Raft_INCLUDE raft.h PATHS "${Raft_ROOT}/include" NO_DEFAULT_PATH)
find_library(Raft_LIBRARY libraft.a PATHS "${Raft_ROOT}/lib" NO_DEFAULT_PATH)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Raft REQUIRED_VARS Raft_LIBRARY Raft_INCLUDE
  REASON_FAILURE_MESSAGE "run scripts/deps.sh first")
if(Raft_FOUND AND NOT TARGET Raft::raft)
  add_library(Raft::raft STATIC IMPORTED)
  set_target_properties(Raft::raft PROPERTIES IMPORTED_LOCATION "${Raft_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${Raft_INCLUDE}"
    INTERFACE_LINK_LIBRARIES "PkgConfig::uv;PkgConfig::lz4")
endif()
