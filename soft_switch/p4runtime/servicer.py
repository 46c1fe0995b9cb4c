"""The gRPC service P4Runtime: a thin layer over ``Device`` that turns refusals into gRPC statuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import grpc
from p4.v1 import p4runtime_pb2

from soft_switch.p4runtime.client_stream import ClientStream
from soft_switch.p4runtime.device import Device
from soft_switch.p4runtime.status import DETAILS_KEY, RequestError, as_request_error, batch_details

API_VERSION = "1.4.0"
PORT_RATES_KEY = "port-rates-bps"
"""Metadata of the answer to ``Capabilities``: ``1=20000000,2=20000000``, in bits per second."""
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


def _abort(context: grpc.ServicerContext, error: RequestError) -> None:
    context.abort(_STATUS_CODES[error.code], error.message)


def _abort_if_any_failed(context: grpc.ServicerContext, results: Sequence[RequestError | None]) -> None:
    """End the call with UNKNOWN and a p4.v1.Error per element, unless all elements succeeded."""
    if any(result is not None for result in results):
        summary, details = batch_details(results)
        context.set_trailing_metadata(((DETAILS_KEY, details),))
        context.abort(grpc.StatusCode.UNKNOWN, summary)


class P4RuntimeService:
    """The RPCs, named as in p4runtime.proto."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def Write(self, request: p4runtime_pb2.WriteRequest, context: grpc.ServicerContext) -> p4runtime_pb2.WriteResponse:
        """Update entities; every update is attempted.

        With gRPC's default limit on metadata (8 KiB), clients receive the details of failed batches of up to about 200
        updates.
        """
        try:
            results = self._device.write(request)
        except Exception as error:
            _abort(context, as_request_error(error))
            raise
        _abort_if_any_failed(context, results)
        return p4runtime_pb2.WriteResponse()

    def Read(
        self, request: p4runtime_pb2.ReadRequest, context: grpc.ServicerContext
    ) -> Iterator[p4runtime_pb2.ReadResponse]:
        """Read entities, a few hundred per response."""
        try:
            responses, results = self._device.read(request)
        except Exception as error:
            _abort(context, as_request_error(error))
            raise
        yield from responses
        _abort_if_any_failed(context, results)

    def SetForwardingPipelineConfig(
        self, request: p4runtime_pb2.SetForwardingPipelineConfigRequest, context: grpc.ServicerContext
    ) -> p4runtime_pb2.SetForwardingPipelineConfigResponse:
        """Verify, save or commit a pipeline config."""
        try:
            self._device.set_config(request)
        except Exception as error:
            _abort(context, as_request_error(error))
            raise
        return p4runtime_pb2.SetForwardingPipelineConfigResponse()

    def GetForwardingPipelineConfig(
        self, request: p4runtime_pb2.GetForwardingPipelineConfigRequest, context: grpc.ServicerContext
    ) -> p4runtime_pb2.GetForwardingPipelineConfigResponse:
        """Return the current pipeline config, or the requested parts of it."""
        try:
            return self._device.get_config(request)
        except Exception as error:
            _abort(context, as_request_error(error))
            raise

    def Capabilities(
        self, request: p4runtime_pb2.CapabilitiesRequest, context: grpc.ServicerContext
    ) -> p4runtime_pb2.CapabilitiesResponse:
        """Return the version of the API that is served, and in metadata the rates of ports, which P4Runtime lacks."""
        del request  # It has no fields in this version of the API.
        if rates := self._device.port_rates():
            text = ",".join(f"{port}={rate_bps}" for port, rate_bps in sorted(rates.items()))
            context.send_initial_metadata(((PORT_RATES_KEY, text),))
        return p4runtime_pb2.CapabilitiesResponse(p4runtime_api_version=API_VERSION)

    def StreamChannel(
        self, requests: Iterator[p4runtime_pb2.StreamMessageRequest], context: grpc.ServicerContext
    ) -> Iterator[p4runtime_pb2.StreamMessageResponse]:
        """Exchange arbitration, packets and digests with a client, which is connected as long as this runs."""
        try:
            stream = self._device.open_stream()
        except RequestError as error:
            _abort(context, error)
            raise
        try:
            context.add_callback(stream.close)
            threading.Thread(
                target=self._receive, args=(stream, requests), name=f"p4runtime-client-{stream.number}", daemon=True
            ).start()
            yield from stream.responses()
        finally:
            self._device.close_stream(stream)
        if stream.error is not None:
            _abort(context, stream.error)

    def _receive(self, stream: ClientStream, requests: Iterator[p4runtime_pb2.StreamMessageRequest]) -> None:
        """Handle the client's messages until it stops, disconnects, or violates a rule of arbitration."""
        try:
            for request in requests:
                self._device.stream_request(stream, request)
        except RequestError as error:
            stream.close(error)
        except grpc.RpcError:
            stream.close()
        except Exception as error:
            stream.close(as_request_error(error))
        else:
            stream.close()
