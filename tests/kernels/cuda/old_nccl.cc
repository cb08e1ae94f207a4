// As much of an old NCCL as it takes to be refused.
extern "C" {
int ncclGetVersion(int* version) {
  *version = 21903;
  return 0;
}
const char* ncclGetErrorString(int) { return ""; }
}
