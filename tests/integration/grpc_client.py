"""A client of the public gRPC API that knows only what the server's reflection tells it."""
import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class GrpcClient:
    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def services(self):
        return set(self.database.get_services())

    def message(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))

    def call(self, method, request=None, timeout=120, **fields):
        """Responses of baleen.v1.Inference/`method`, whose request has `fields`."""
        service = self.pool.FindServiceByName("baleen.v1.Inference")
        descriptor = service.FindMethodByName(method)
        request = self.message(descriptor.input_type.full_name)(**fields)
        response = self.message(descriptor.output_type.full_name)
        stub = self.channel.unary_stream(f"/baleen.v1.Inference/{method}",
                                         request_serializer=lambda m: m.SerializeToString(),
                                         response_deserializer=response.FromString)
        return list(stub(request, timeout=timeout))

    def generate_ids(self, prompt_ids, **sampling):
        tokens = []
        for response in self.call("Generate", token_ids={"ids": prompt_ids}, sampling=sampling):
            part = response.delta if response.WhichOneof("event") == "delta" else response.finish.last
            tokens += part.tokens
        return tokens
