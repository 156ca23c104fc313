"""The bus over RabbitMQ."""

from shared.adapters.rabbitmq.bus import RabbitBus, open_rabbitmq

__all__ = ["RabbitBus", "open_rabbitmq"]
